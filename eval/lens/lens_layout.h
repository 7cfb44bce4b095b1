// Which rows a table of the lens has for a token, and in which order: that of execution.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"

namespace signalbox::eval {

// One group of rows of lens.csv: a point of a token.
struct LensEntry {
  enum class Kind : uint8_t { embed, attn_out, mlp_out, moe_routed, expert, shared_out, edit, resid_out };
  Kind kind = Kind::resid_out;
  int32_t layer = -1;  // -1: embed
  int32_t place = 0;   // expert: among those of the token, by ascending id
  bool share() const { return kind != Kind::resid_out; }
};

// "resid_out", "expert.17"; `expert` is not looked at for other kinds.
std::string lens_point_name(LensEntry::Kind kind, int64_t expert);

class LensLayout {
 public:
  // `layers` absolute and ascending. Experts have as many places as the widest route of the jobs has slots.
  LensLayout(const Session& session, const std::vector<Job>& jobs, const std::vector<int32_t>& layers, bool parts);

  const std::vector<LensEntry>& entries() const { return entries_; }
  int32_t n_slots() const { return n_slots_; }
  // The first entry of a kind in a layer (-1: embed); -1: there is none.
  int64_t first(LensEntry::Kind kind, int32_t layer) const;
  bool has_layer(int32_t layer) const { return first(LensEntry::Kind::resid_out, layer) >= 0; }

 private:
  static constexpr size_t n_kinds = 8;
  void add(LensEntry entry);
  std::vector<LensEntry> entries_;
  std::vector<int64_t> first_;  // [(layer + 1) * n_kinds + kind]
  int32_t n_slots_ = 0;
};

}  // namespace signalbox::eval
