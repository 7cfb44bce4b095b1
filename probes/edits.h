// Edits: what an experimenter changes in a forward pass. The format is docs/edits.md.
//
//   EditPlan    a list of edits, read and checked against a model; immutable, shared by all sequences that carry it
//   BoundEdits  a plan tied to one sequence: which positions each edit acts on, and recorded routes and values to
//   impose
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/namespaces.h"
#include "kernels/router.h"
#include "probes/points.h"
#include "probes/shape.h"

namespace signalbox::probes {

class BoundEdits;
class EditMemory;  // probes/edit_memory.h
struct PlanData;   // probes/edit_plan.h

// 64-bit hash of a record's id, a part of every key of a draw: FNV-1a over the bytes, then the finalizer of splitmix64.
uint64_t record_hash(std::string_view id);

// Token indices [begin, end) of a sequence that belong to the named span. A name may occur more than once.
struct SpanTokens {
  std::string name;
  int64_t begin = 0, end = 0;
};

// What edits depend on in a sequence. Its first token has position 0.
struct SequenceInfo {
  std::string record;   // the record's id
  uint32_t sample = 0;  // number of the sample of that record
  int64_t n_given = 0;  // given tokens; later positions are generated
  std::vector<SpanTokens> spans;
};

// One write to a point of one layer. Acts on the tokens whose `edit` column of BoundEdits::active() is 1 and whose
// router margin at this layer is below margin_below; on points with one row per slot, on the slots whose expert is in
// `experts` (ascending; all_experts: on every used slot).
class PointEdit {
 public:
  enum class Kind : uint8_t { set, add };
  Kind kind = Kind::set;
  int32_t edit = 0;
  float margin_below = std::numeric_limits<float>::infinity();
  float scale = 1;  // add: of the values
  bool all_experts = true;
  std::span<const int32_t> experts;
  std::span<const int32_t> columns;  // neurons, ascending; empty = all
  // [n_values, width] on the host. The same pointer for all sequences unless the values are of a sequence (patch).
  const float* values = nullptr;
  int64_t n_values = 0, width = 0;

  // Row of `values` for a token; slot and expert matter at points with one row per slot. Throws Error, naming the edit,
  // the record and the position, where the recording holds nothing.
  int64_t value_row(int64_t position, int32_t slot = 0, int32_t expert = 0) const;

  // How rows are found; filled in by bind.
  enum class Rows : uint8_t { one, by_expert, by_position };
  Rows rows = Rows::one;
  std::span<const int32_t> row_of;  // by_position: [position] -> recorded row, -1 none; by_expert: [expert] -> row
  int32_t n_slots = 1;              // by_position at slots: slots a recorded row holds
  const BoundEdits* owner = nullptr;
  int32_t layer = -1;
};

// A checked list of edits.
class EditPlan : public std::enable_shared_from_this<EditPlan> {
 public:
  // From a file {"edits": [...]}; relative paths in it are relative to the file. Throws Error naming file and key.
  // `seed` is the seed of edits that name none.
  static std::shared_ptr<const EditPlan> load(const std::filesystem::path& file, const ModelShape& shape,
                                              uint64_t seed);
  // From {"edits": [...]} or the array itself; relative paths are relative to base_dir.
  // `memory`: what "memory:NAME" stands for in place of a file; null: such a text is a path like any other.
  static std::shared_ptr<const EditPlan> parse(const json::Ref& edits, const std::filesystem::path& base_dir,
                                               const ModelShape& shape, uint64_t seed,
                                               const EditMemory* memory = nullptr);
  ~EditPlan();
  EditPlan(const EditPlan&) = delete;
  EditPlan& operator=(const EditPlan&) = delete;

  // Edits listed = columns of active(). No-ops by value keep their column and do nothing else.
  int32_t n_edits() const;
  // True when no edit can change anything: the run is the unedited run.
  bool empty() const;
  bool has_router_edits() const;
  bool has_point_edits() const;
  // Slots that a route needs: the most active experts of any layer, or more where top_k or a replay asks for it.
  int32_t max_slots() const;
  // Positions that an edit may act on depend on a margin that only the router knows.
  bool needs_margin() const;
  // The edits as given (the array).
  const json::Value& source() const;
  // Layer -> experts that the edit names after files were read and rankings taken; empty for one that names none.
  std::vector<std::pair<int32_t, std::vector<int32_t>>> experts_of(int32_t edit) const;
  // The last layer at which an edit acts; that of the model behind the last layer's points. -1: at none.
  int32_t highest_layer() const;
  // Names of the spans that conditions ask for, ascending.
  std::vector<std::string> span_names() const;

  // Throws Error when a condition asks for a span that is not among `names`: the spans of all input records, and
  // "target" where a record has one.
  void require_spans(std::span<const std::string> names) const;
  // BoundEdits::first_position() of the sequence, at less cost than bind(). Throws what check() does.
  int64_t first_position(const SequenceInfo& sequence) const;
  // What an edit does to a given token may depend on the number of the sample: it draws, or imposes a recording.
  bool depends_on_sample() const;
  // Throws what bind() would throw for this sequence, at less cost: for checking a whole input before the first token.
  void check(const SequenceInfo& sequence) const;
  // Throws Error when a recorded route or value that the sequence needs is missing.
  std::shared_ptr<const BoundEdits> bind(const SequenceInfo& sequence) const;

 private:
  friend class BoundEdits;
  friend class PointEdit;
  explicit EditPlan(std::unique_ptr<PlanData> data);
  std::unique_ptr<PlanData> data_;
};

// What can be refused of an edit file before there is a model: everything that EditSpec::parse refuses, spans that are
// not among `span_names`. Returns the paths ("edits[1]") of those that act on generated tokens alone.
std::vector<std::string> check_edit_file(const std::filesystem::path& file, std::span<const std::string> span_names);

// The edits of one sequence. Every pointer it gives is valid as long as it lives.
class BoundEdits {
 public:
  ~BoundEdits();
  BoundEdits(const BoundEdits&) = delete;
  BoundEdits& operator=(const BoundEdits&) = delete;

  const EditPlan& plan() const { return *plan_; }
  uint64_t record_hash() const { return record_hash_; }
  uint32_t sample() const { return sequence_.sample; }
  const std::string& record() const { return sequence_.record; }
  // A number that no other bound edits of this process have had.
  uint64_t serial() const { return serial_; }
  int32_t n_experts(int32_t layer) const;

  // Router edits of a layer, in listed order; no steps in a layer that none touches.
  RouterProgram router(int32_t layer) const;
  bool has_router_edits() const;
  // Writes to a point of a layer (-1: not of a layer), in listed order.
  std::span<const PointEdit> point_edits(Point point, int32_t layer) const;

  // out [n_edits]: 1 where the edit's condition holds at this position, but for its margin.
  void active(int64_t position, uint8_t* out) const;
  // The earliest position at which an edit can act; INT64_MAX: none. Keys and values before it are those of an unedited
  // run.
  int64_t first_position() const { return first_position_; }

  // The error that a fault of the router kernel means, naming the edit, the layer, the record and the position.
  Error fault_error(const RouteFault& fault, int32_t layer, int64_t position) const;

 private:
  friend class EditPlan;
  friend class PointEdit;
  struct Tables;
  BoundEdits(std::shared_ptr<const EditPlan> plan, SequenceInfo sequence);
  bool holds(int32_t edit, int64_t position) const;
  std::shared_ptr<const EditPlan> plan_;
  SequenceInfo sequence_;
  uint64_t record_hash_ = 0, serial_ = 0;
  int64_t first_position_ = std::numeric_limits<int64_t>::max();
  std::unique_ptr<Tables> tables_;
};

}  // namespace signalbox::probes
