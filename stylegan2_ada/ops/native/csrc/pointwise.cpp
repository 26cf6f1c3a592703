// 1x1 convolutions of bfloat16 or float32 images with float32 weights, by AVX512-BF16: stylegan2_ada/ops/pointwise.py tells what the
// ops compute and defines their schemas.
#include "cpu.h"

#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__unix__)
#define POINTWISE_SUPPORTED 1
#include "pointwise_passes.h"
#else
#define POINTWISE_SUPPORTED 0
#endif

namespace {

int64_t supported() { return POINTWISE_SUPPORTED; }

#if POINTWISE_SUPPORTED
using namespace pointwise;
using sg::ScalarType;
using torch::stable::Tensor;
constexpr auto CHANNELS_LAST = torch::headeronly::MemoryFormat::ChannelsLast;

Tensor images(const Tensor& x) {
  const bool wide = x.scalar_type() == ScalarType::Float, narrow = x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(x.dim() == 4 && (wide || (narrow && x.size(1) % 2 == 0)),
                  "stylegan2_ada::pointwise: images must be float32 [N, C, H, W], or bfloat16 of an even number of channels");
  return torch::stable::contiguous(x, CHANNELS_LAST);
}

template <typename F>
void by_type(const Tensor& x, const F& f) {
  x.scalar_type() == ScalarType::Float ? f(float{}) : f(bf16{});
}

int64_t pixels(const Tensor& x) { return x.size(0) * x.size(2) * x.size(3); }

// x times w [O, I, 1, 1], which `across` sums over its O
Tensor product(const Tensor& x_, const Tensor& w_, bool across) {
  const Tensor x = images(x_), w = torch::stable::contiguous(w_);
  STD_TORCH_CHECK(w.dim() == 4 && w.scalar_type() == ScalarType::Float && w.size(across ? 0 : 1) == x.size(1) &&
                      w.size(2) == 1 && w.size(3) == 1,
                  "stylegan2_ada::pointwise: w must be float32 [O, I, 1, 1], of the images' ", x.size(1), " channels");
  const int64_t depth = x.size(1), columns = w.size(across ? 1 : 0);
  const Tensor y = torch::stable::empty({x.size(0), columns, x.size(2), x.size(3)}, x.scalar_type(), std::nullopt,
                                        x.device(), std::nullopt, CHANNELS_LAST);
  if (y.numel() == 0) return y;
  static thread_local sg::Scratch scratch;
  const Panels panels{columns};
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    uint32_t* packed = scratch.get<uint32_t>(panels.vectors() * 16 * (depth / NUMBERS<T> + 8));  // products ask ahead
    pack_weights<T>(sg::in<float>(w), depth, panels, across, packed);
    multiply(sg::in<T>(x), packed, pixels(x), depth, panels, sg::out<T>(y), torch::stable::get_num_threads());
  });
  return y;
}

Tensor pointwise_op(const Tensor& x, const Tensor& w) { return product(x, w, false); }

Tensor pointwise_input_op(const Tensor& gy, const Tensor& w) { return product(gy, w, true); }

Tensor pointwise_weight_op(const Tensor& x_, const Tensor& gy_) {
  const Tensor x = images(x_), gy = images(gy_);
  STD_TORCH_CHECK(gy.size(0) == x.size(0) && gy.size(2) == x.size(2) && gy.size(3) == x.size(3) &&
                      gy.scalar_type() == x.scalar_type(),
                  "stylegan2_ada::pointwise_weight: gy is not of this x");
  const int64_t outputs = gy.size(1), inputs = x.size(1), size = outputs * inputs, many = pixels(x);
  const Tensor gw = torch::stable::empty({outputs, inputs, 1, 1}, ScalarType::Float, std::nullopt, x.device());
  float* out = sg::out<float>(gw);
  if (many == 0) std::fill_n(out, size, 0.0f);
  if (many == 0 || size == 0) return gw;
  // Vectors of few columns leave most registers unused: the other way round then, and turned at the end.
  const bool turned = inputs < COLUMNS && inputs < outputs;
  const int64_t rows = turned ? inputs : outputs, columns = turned ? outputs : inputs;
  const int64_t pieces = std::clamp<int64_t>(many / PIECE, 1, PIECES), threads = torch::stable::get_num_threads();
  const Panels panels{columns};
  const int64_t parts = pieces < 2 * threads ? std::min(threads, panels.count()) : 1;
  std::vector<float> sums((pieces - !turned) * size);
  float* first = turned ? sums.data() : out;
  float* others = sums.data() + turned * size;
  by_type(x, [&](auto zero) {
    using T = decltype(zero);
    const T *of_rows = sg::in<T>(turned ? x : gy), *of_columns = sg::in<T>(turned ? gy : x);
    sg::for_each_item(pieces * parts, threads, [&](int64_t item, int64_t) {
      const int64_t piece = item / parts, part = item % parts;
      const int64_t begin = many * piece / pieces, end = many * (piece + 1) / pieces;
      outer_products(of_rows + begin * rows, of_columns + begin * columns, end - begin, rows, panels,
                     panels.count() * part / parts, panels.count() * (part + 1) / parts,
                     piece ? others + (piece - 1) * size : first);
    });
  });
  for (int64_t i = 0; i < (pieces - 1) * size; i++) first[i % size] += others[i];
  if (turned)
    for (int64_t i = 0; i < size; i++) out[i % columns * rows + i / columns] = first[i];
  return gw;
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CompositeExplicitAutograd, m) {
  m.impl("pointwise_supported", TORCH_BOX(&supported));
}

#if POINTWISE_SUPPORTED
STABLE_TORCH_LIBRARY_IMPL(stylegan2_ada, CPU, m) {
  m.impl("pointwise", TORCH_BOX(&pointwise_op));
  m.impl("pointwise_input", TORCH_BOX(&pointwise_input_op));
  m.impl("pointwise_weight", TORCH_BOX(&pointwise_weight_op));
}
#endif
