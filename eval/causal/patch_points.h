// What can be exchanged between two runs, and in which pieces (docs/causal-patch.md).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "probes/points.h"
#include "probes/shape.h"

namespace signalbox::eval {

// How fine a point is taken apart:
//   position  everything that it holds at one token
//   unit      one head, expert or neuron, at all tokens at once
//   both      one unit at one token
//   whole     everything at all tokens
//   natural   unit where the point has units, else position
enum class PatchBy : uint8_t { natural, position, unit, both, whole };
PatchBy parse_patch_by(std::string_view name, const std::string& where);  // throws Error, listing the names
std::string_view patch_by_name(PatchBy by);

// Of a row of a point: columns [first, first + count), or the slots of an expert.
struct PatchUnit {
  std::string name;              // "2", "latent", "5:12"; empty: all of it
  int32_t expert = -1;           // of points by expert, and the logit of router.logits
  int64_t first = 0, count = 0;  // columns of the row, or of the expert's row; count 0: all of it
};

// attn.q, attn.k, attn.v, attn.z, attn.pattern by head; latent keys by part: latent, rope.
bool patched_by_head(Point point);
// router.logits, expert.hidden, expert.out, expert.contribution by expert id.
bool patched_by_expert(Point point);
inline bool has_patch_units(Point point) { return patched_by_head(point) || patched_by_expert(point); }

// The points that globs name ("GLOB[,GLOB...]", as of PointSet::parse), in order of execution, without those that
// cannot be patched; their short names stand in left_out. Throws Error where a glob names none, or nothing is left.
struct PatchPoints {
  std::vector<PointAt> points;
  std::vector<std::string> left_out;
};
PatchPoints patch_points(std::string_view globs, const ModelShape& shape);

// The units of a point by head, in order.
std::vector<PatchUnit> head_units(const PointAt& at, const ModelShape& shape);

// "layer.9.expert.contribution:2@5": a point in full, a unit and a position of it, both of which may be left out.
struct NamedExchange {
  std::string text;
  PointAt at;
  PatchUnit unit;
  int64_t position = -1;
};
// Items with commas between them, in order of execution. Throws Error that begins with `where`.
std::vector<NamedExchange> named_exchanges(std::string_view text, const ModelShape& shape, const std::string& where);
// Whether a comes before b in a forward.
bool comes_before(const PointAt& a, const PointAt& b, const ModelShape& shape);

// The layers at which the stream is entered and in which routes can change: the run of the patched tokens begins where
// layer `entry` begins, n_layers being the final norm. Whether rows of the stream there are all that a patch changes
// (else it is a write within layer `entry`).
struct PatchPlace {
  int32_t entry = 0;
  int32_t first_route = 0;  // the first layer whose route the patch can change
  bool stream = false;
};
PatchPlace patch_place(const PointAt& at, const ModelShape& shape);

}  // namespace signalbox::eval
