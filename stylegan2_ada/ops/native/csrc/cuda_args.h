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

// bias_act and its derivatives: a piece of a tensor as a flat array of [outer, size, inner], channels along `size`.
// Biases, factors and noise lie contiguously from multiples of 16 bytes on, in the images' number type, or in float
// (`wide`) if that has two bytes.
struct PointwiseArgs {
  const void* x;    // of the forward pass, or the gradient that comes in
  const void* x2;   // second order: the other factor
  const void* ref;  // derivatives are read from it
  const void* b;
  void* y;
  double alpha, gain, inv_gain, clamp;  // inv_gain is 0 for a gain of 0
  int elements;
  Divisor inner, size;
  int act, wide;
  int mode;      // biases of 16 bytes of elements: 0 none, 1 the same, 2 neighbours, 3 any
  int periodic;  // all vectors of a thread have the same biases (mode 2)
  int aligned;   // all arrays begin at multiples of 16 bytes
};

// modconv_epilogue and its gradient, for [N, C, H, W] in either layout. What each thread does is in modconv.cuh.
struct EpilogueArgs {
  const void* y;    // what the convolution gave; in the gradient null where it is recovered from `out`
  const void* out;  // in the gradient
  const void* g;    // likewise
  const void *d, *noise, *b;
  void* result;       // out, or the gradient for y
  void *dots, *sums;  // partial sums [n, c, pieces] over pixels
  void* by_pixel;     // partial sums [n, groups, pixels] over channels
  double alpha, gain, inv_gain, clamp;  // inv_gain is 0 for a gain of 0
  int act, n, c, pixels;
  int noise_wide, b_wide, noise_each;  // noise_each: every sample has its own; d is wide
  int lanes;   // a power of 2: neighbouring threads, over pixels of a plane or over the channels of a pixel
  int groups;  // that share the channels of a sample
  int pieces;  // that share the pixels of a sample
};

// The sums of what the gradient's threads summed up.
struct FinishArgs {
  const void *dots, *sums, *by_pixel, *d;
  void *gd, *gb, *gn;  // null where not wanted
  int divide;          // by d: the sums were of y * d
  int n, c, pixels, groups, pieces, noise_each;
};

}  // namespace sg
