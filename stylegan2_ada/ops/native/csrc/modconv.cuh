// Who does what in the kernels of modconv.cu.
//
// Planes: NCHW. A thread keeps V neighbouring pixels, with the noise there, and goes through channels; `lanes` threads
//     side by side have neighbouring pixels, `pieces` such teams share a plane. Channels are dealt out to `groups` of
//     teams in turn, so that neighbouring teams have neighbouring planes.
// Pixels: channels_last. A thread keeps V neighbouring channels, with the factors and biases there, and goes through
//     pixels; `lanes` threads side by side have neighbouring channels, `groups` such teams share a pixel. A block has
//     256 / lanes teams of the same channels, which take the pixels of its piece in turn.
//
// So each thread sums over one kind of dimension by itself. Sums over the other kind are made by shuffles within a team,
// which is never larger than a warp. Partial sums of teams go to memory and are added by the kernel `modconv_finish`, in
// an order that depends on the shapes only: gradients are the same in every run.
#pragma once

#include "bias_act.cuh"
#include "modconv.h"

namespace sg {

// The sum over the threads of a team. All threads of the warp come here.
template <typename S>
SG_DEVICE S team_sum(S v, int lanes) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    if (step < lanes) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

// A thread of the planes' kernels.
struct PlaneTeam {
  int sample, piece, group, pixel;
  bool inside;
  i64 at;  // the thread's first element in channel 0 of its sample
};

template <int V>
SG_DEVICE PlaneTeam plane_team(const EpilogueArgs& a) {
  const u32 thread = blockIdx.x * 256u + threadIdx.x, team = thread / u32(a.lanes);
  PlaneTeam t;
  t.group = int(team % u32(a.groups));
  t.piece = int(team / u32(a.groups) % u32(a.pieces));
  t.sample = int(team / u32(a.groups) / u32(a.pieces));
  t.pixel = (t.piece * a.lanes + int(thread % u32(a.lanes))) * V;
  t.inside = t.sample < a.n && t.pixel < a.pixels;
  t.at = i64(t.sample) * a.c * a.pixels + t.pixel;
  return t;
}

// A thread of the pixels' kernels: pixels first + k * step below `end`.
struct PixelTeam {
  int sample, piece, group, lane, channel, first, step, end;
  bool inside;
};

template <int V>
SG_DEVICE PixelTeam pixel_team(const EpilogueArgs& a) {
  const u32 block = blockIdx.x / u32(a.groups);
  PixelTeam t;
  t.group = int(blockIdx.x % u32(a.groups));
  t.piece = int(block % u32(a.pieces));
  t.sample = int(block / u32(a.pieces));
  t.lane = int(threadIdx.x % u32(a.lanes));
  t.channel = (t.group * a.lanes + t.lane) * V;
  t.inside = t.channel < a.c;
  t.step = 256 / a.lanes;
  const int size = (a.pixels - 1) / a.pieces + 1;
  t.first = t.piece * size + int(threadIdx.x / u32(a.lanes));
  t.end = t.piece * size + size < a.pixels ? t.piece * size + size : a.pixels;
  return t;
}

// d, b or noise where they are given; what is loaded is not looked at before it is needed.
template <typename T, int V>
SG_DEVICE Small<T, V> load_operand(const void* p, bool wide, i64 i) {
  Small<T, V> r = {};
  if (p) r = load_small<T, V>(p, wide, i);
  return r;
}

// As numbers; absent ones are neutral.
template <typename T, int V>
SG_DEVICE void operand_values(const Small<T, V>& r, const void* p, bool wide, acc_t<T> neutral, acc_t<T>* out) {
#pragma unroll
  for (int k = 0; k < V; ++k) out[k] = p ? small_value<T, V>(r, wide, k) : neutral;
}

template <typename T>
SG_DEVICE acc_t<T> operand_value(const Small<T, 1>& r, const void* p, bool wide, acc_t<T> neutral) {
  return p ? small_value<T, 1>(r, wide, 0) : neutral;
}

}  // namespace sg
