// One point of one layer in two runs: what the target run has there, and what it gets in its place from the source run,
// at the positions that stand for one another. Experts are matched by id, never by slot.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/receivers.h"
#include "engine/session.h"
#include "eval/causal/patch_points.h"
#include "probes/activation_store.h"
#include "probes/edits.h"

namespace signalbox::eval {

class ExchangedPoint {
 public:
  // Stores of one sample that hold exchanged_globs() of the point. `source_of` [target tokens]: the position of the
  // source run, -1 where nothing is exchanged. `stands_for`: the same of all positions that stand for one another,
  // exchanged or not; a pattern's keys are matched by it. All must outlive this.
  ExchangedPoint(const engine::Session& session, engine::Receivers& receivers, const ActivationStore& target,
                 const ActivationStore& source, std::span<const int32_t> source_of, std::span<const int32_t> stands_for,
                 const PointAt& at);

  const PointAt& at() const { return at_; }
  // The units of the point: heads, all experts for router.logits, and for points by expert those selected in either run
  // (expert.contribution) or in both (expert.out, expert.hidden) at some position.
  std::vector<PatchUnit> units() const;
  // Whether a unit has a value in both runs at a position; contributions have one always: not selected is 0.
  bool defined(const PatchUnit& unit, int64_t position) const;
  // Whether the exchange changes a bit of it.
  bool changes(const PatchUnit& unit, int64_t position) const;
  // Places where an expert is selected in one run alone, and so has no counterpart (expert.out, expert.hidden).
  int64_t n_undefined() const;

  // PatchPlace::stream: rows of the stream where layer `entry` begins, in the engine's own arithmetic. [places,
  // d_model]
  struct Place {
    const PatchUnit* unit = nullptr;
    int64_t position = 0;
  };
  std::vector<float> streams(std::span<const Place> places) const;
  // The exchange as an edit of positions [first, end), of which those that are not exchanged keep their values, and the
  // recording that it names, under `name`. What a block adds is written as a whole (moe.out, mlp.out).
  struct Edit {
    json::Value edit;
    std::shared_ptr<const ActivationStore> values;
  };
  Edit edit(const PatchUnit& unit, int64_t first, int64_t end, const std::string& name);
  // The same as a plan of its own.
  std::shared_ptr<const EditPlan> plan(const PatchUnit& unit, int64_t first, int64_t end);

 private:
  std::span<const float> row(const ActivationStore& run, Point point, int64_t position) const;
  std::span<const int32_t> route(const ActivationStore& run, int64_t position) const;
  std::optional<size_t> slot_of(const ActivationStore& run, int64_t position, int32_t expert) const;
  std::span<const float> slot_row(const ActivationStore& run, Point point, int64_t position, int32_t expert) const;
  // weight x output; the output is empty where the expert is not selected.
  struct Contribution {
    float weight = 0;
    std::span<const float> output;
  };
  Contribution contribution(const ActivationStore& run, int64_t position, int32_t expert) const;
  std::vector<Contribution> contributions(const PatchUnit& unit, int64_t position) const;
  std::vector<float> combined(std::span<const Place> places) const;
  std::vector<std::pair<int32_t, float>> weighed(const ActivationStore& run, int64_t position) const;
  bool sums() const;  // up to what the feed-forward block adds
  Point written() const;
  const std::shared_ptr<ActivationStore>& donor(const PatchUnit& unit, const std::string& name);
  std::shared_ptr<ActivationStore> value_donor(const std::string& name) const;
  std::shared_ptr<ActivationStore> block_donor(const PatchUnit& unit, int64_t first, int64_t end,
                                               const std::string& name) const;
  std::shared_ptr<ActivationStore> route_donor(int32_t expert, const std::string& name);
  void exchange_patterns(std::vector<float>& z) const;

  const engine::Session& session_;
  engine::Receivers& receivers_;
  const ActivationStore &target_, &source_;
  std::span<const int32_t> source_of_, stands_for_;
  PointAt at_;
  std::vector<int32_t> target_ids_, source_ids_;  // [tokens, layers with a router, slots]
  // By the name that edits have for it, and the expert of router.logits, else -1.
  std::map<std::pair<std::string, int32_t>, std::shared_ptr<ActivationStore>> donors_;
};

// The globs of what both runs must record for a point, beside *.router.ids and *.router.weights.
std::string exchanged_globs(const PointAt& at, const ModelShape& shape);

}  // namespace signalbox::eval
