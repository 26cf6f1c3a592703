// The kernels of all .cu files as C++, and a way in for Python: emulate_<source>(kernel, arguments, grid, block).
#include "cuda_emulation.h"

#include "bias_act.cu"
#undef SG_ALL
#include "modconv.cu"
#undef SG_ALL
#undef SG_ONE
#include "upfirdn2d.cu"

namespace {

void* target;

template <typename Args>
void call(const void* args) {
  reinterpret_cast<void (*)(Args)>(target)(*static_cast<const Args*>(args));
}

}  // namespace

#define EMULATE(SOURCE, ARGS)                                                                                     \
  extern "C" const char* emulate_##SOURCE(void* kernel, const void* args, unsigned grid, unsigned x, unsigned y, \
                                          unsigned z, int descending) {                                          \
    target = kernel;                                                                                             \
    return emulation::launch(call<sg::ARGS>, args, grid, x, y, z, descending);                                   \
  }

EMULATE(upfirdn2d, UpfirdnArgs)
EMULATE(bias_act, PointwiseArgs)
EMULATE(modconv, EpilogueArgs)
EMULATE(modconv_finish, FinishArgs)
