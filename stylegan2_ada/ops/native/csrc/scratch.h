// Memory for intermediate results on the CPU.
#pragma once
#include <sys/mman.h>

#include <cstdlib>

#include "cpu.h"

namespace sg {

// Memory that is kept between calls: allocated anew, its pages would be mapped and cleared by the operating system each
// time, which costs as much as the transforms.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }
  template <typename T>
  T* get(int64_t count) {
    const size_t bytes = (count * sizeof(T) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (bytes > bytes_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(HUGE_PAGE, bytes);
      STD_TORCH_CHECK(memory_, "stylegan2_ada: out of memory for ", bytes, " bytes");
      bytes_ = bytes;
#if defined(MADV_HUGEPAGE)
      madvise(memory_, bytes, MADV_HUGEPAGE);  // a hint: thousands of small pages are more than the processor tracks
#endif
    }
    return static_cast<T*>(memory_);
  }

 private:
  static constexpr size_t HUGE_PAGE = 2 << 20;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace sg
