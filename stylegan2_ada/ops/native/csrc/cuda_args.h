// The arguments of the CUDA kernels, one plain struct each, passed by value. `stylegan2_ada/ops/native/cuda_structs.py`
// repeats them for the NVRTC route (a test compares the offsets).
#pragma once

namespace sg {

// Division by d through a multiplication: n / d = (n * factor >> 32) >> shift for n < 2^31, d > 1.
struct Divisor {
  unsigned int d, factor, shift;
};

// upfirdn2d. NCHW images count as planes * 1 channel, channels_last ones as `planes` images of c channels.
struct UpfirdnArgs {
  const void* x;
  const void* f;
  void* y;
  double gain;
  int planes, c, h, w, oh, ow;
  int up_x, up_y, down_x, down_y, pad_x, pad_y;
  int taps_x, taps_y;
  int separable, f_double, flip;
  int rows;     // output rows of one thread
  int groups;   // groups of `rows` output rows in an image
  int strips;   // threads across the width of an image
  int tiles_x;  // blocks across the width
  int chunks;   // blocks across the channels
};

}  // namespace sg
