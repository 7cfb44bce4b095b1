#include "eval/lens/lens_layout.h"

#include <algorithm>
#include <iterator>

namespace signalbox::eval {

namespace {

// Whether edits of the jobs may write to the stream of a layer past the parts that are told of.
bool writes_stream(const std::vector<Job>& jobs, int32_t layer) {
  constexpr Point points[] = {Point::resid_in, Point::resid_mid, Point::resid_out, Point::moe_out};
  for (const Job& job : jobs) {
    if (!job.plan || !job.plan->has_point_edits()) continue;
    const std::shared_ptr<const BoundEdits> bound = job.plan->bind(sequence_info(job));
    return std::any_of(std::begin(points), std::end(points),
                       [&](Point point) { return !bound->point_edits(point, layer).empty(); });
  }
  return false;
}

}  // namespace

std::string lens_point_name(LensEntry::Kind kind, int64_t expert) {
  switch (kind) {
    case LensEntry::Kind::embed: return "embed";
    case LensEntry::Kind::attn_out: return "attn.out";
    case LensEntry::Kind::mlp_out: return "mlp.out";
    case LensEntry::Kind::moe_routed: return "moe.routed";
    case LensEntry::Kind::expert: return "expert." + std::to_string(expert);
    case LensEntry::Kind::shared_out: return "shared.out";
    case LensEntry::Kind::edit: return "edit";
    case LensEntry::Kind::resid_out: return "resid_out";
  }
  return "";
}

LensLayout::LensLayout(const Session& session, const std::vector<Job>& jobs, const std::vector<int32_t>& layers,
                       bool parts)
    : first_(static_cast<size_t>(session.model.n_layers() + 1) * n_kinds, -1),
      n_slots_(std::max(session.model.n_active(), widest_route(jobs))) {
  using enum LensEntry::Kind;
  if (parts) add({embed, -1, 0});
  for (const int32_t l : layers) {
    if (parts) {
      const Moe* moe = session.model.layers[static_cast<size_t>(l)].moe();
      add({attn_out, l, 0});
      if (moe) {
        add({moe_routed, l, 0});
        for (int32_t place = 0; place < n_slots_; ++place) add({expert, l, place});
        if (moe->d_ff_shared > 0) add({shared_out, l, 0});
      } else {
        add({mlp_out, l, 0});
      }
      if (writes_stream(jobs, l)) add({edit, l, 0});
    }
    add({resid_out, l, 0});
  }
}

int64_t LensLayout::first(LensEntry::Kind kind, int32_t layer) const {
  return first_[static_cast<size_t>(layer + 1) * n_kinds + static_cast<size_t>(kind)];
}

void LensLayout::add(LensEntry entry) {
  if (entry.place == 0)
    first_[static_cast<size_t>(entry.layer + 1) * n_kinds + static_cast<size_t>(entry.kind)] =
        static_cast<int64_t>(entries_.size());
  entries_.push_back(entry);
}

}  // namespace signalbox::eval
