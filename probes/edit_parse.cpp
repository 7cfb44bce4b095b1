#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/near_names.h"
#include "base/text.h"
#include "probes/edit_spec.h"

namespace signalbox::probes {

namespace {

template <class T>
struct Named {
  std::string_view name;
  T value;
};

// The value that a string names, or an Error that lists the names.
template <class T, size_t N>
T choose(const json::Ref& ref, const std::array<Named<T>, N>& names) {
  if (ref.value().is_string())
    for (const auto& named : names)
      if (named.name == ref.string()) return named.value;
  std::string expected;
  for (size_t i = 0; i < N; ++i)
    expected += (i == 0 ? "" : i + 1 == N ? " or " : ", ") + ("\"" + std::string(names[i].name) + "\"");
  if (ref.value().is_string())
    if (const auto near = near_names(ref.string(), names_of(names, &Named<T>::name)); !near.empty())
      expected += " (nearest: " + joined(near) + ")";
  ref.fail_type(expected);
}

float float_number(const json::Ref& ref) {
  const float value = static_cast<float>(ref.number());
  if (!std::isfinite(value)) ref.fail_type("a number that a float can hold");
  return value;
}

std::filesystem::path file_path(const json::Ref& ref, const std::filesystem::path& base_dir) {
  if (ref.string().empty()) ref.fail_type("a file");
  return base_dir / ref.string();
}

// "0:32", "5:", ":5", ":".
void parse_positions(const json::Ref& ref, int64_t& begin, int64_t& end) {
  const std::string& text = ref.string();
  const size_t colon = text.find(':');
  auto number = [&](size_t first, size_t last, int64_t& value) {
    if (first == last) return;
    auto [stop, failed] = std::from_chars(text.data() + first, text.data() + last, value);
    if (failed != std::errc() || stop != text.data() + last || value < 0) ref.fail_type("positions as \"BEGIN:END\"");
  };
  if (colon == std::string::npos) ref.fail_type("positions as \"BEGIN:END\"");
  number(0, colon, begin);
  number(colon + 1, text.size(), end);
  if (begin >= end) ref.fail_type("a range of at least one position");
}

enum class Op {
  deactivate,
  activate,
  misroute,
  replay,
  top_k,
  temperature,
  scale_expert,
  scale_shared,
  ablate,
  add,
  patch
};
enum class Mode { ban_or_force, steermoe, bias };

constexpr std::array<Named<Op>, 11> ops = {{{"deactivate", Op::deactivate},
                                            {"activate", Op::activate},
                                            {"misroute", Op::misroute},
                                            {"replay", Op::replay},
                                            {"top_k", Op::top_k},
                                            {"temperature", Op::temperature},
                                            {"scale_expert", Op::scale_expert},
                                            {"scale_shared", Op::scale_shared},
                                            {"ablate", Op::ablate},
                                            {"add", Op::add},
                                            {"patch", Op::patch}}};
constexpr std::array<Named<Mode>, 3> deactivate_modes = {
    {{"ban", Mode::ban_or_force}, {"steermoe", Mode::steermoe}, {"bias", Mode::bias}}};
constexpr std::array<Named<Mode>, 3> activate_modes = {
    {{"force", Mode::ban_or_force}, {"steermoe", Mode::steermoe}, {"bias", Mode::bias}}};
constexpr std::array<Named<EditOp>, 9> policies = {{{"next_best", EditOp::next_best},
                                                    {"swap_last", EditOp::swap_last},
                                                    {"worst", EditOp::worst},
                                                    {"shift", EditOp::shift},
                                                    {"permute", EditOp::permute},
                                                    {"random", EditOp::random},
                                                    {"gumbel", EditOp::gumbel},
                                                    {"frequency_matched", EditOp::frequency_matched},
                                                    {"fixed", EditOp::fixed}}};
constexpr std::array<Named<WeightPolicy>, 7> weight_policies = {{{"model", WeightPolicy::model},
                                                                 {"keep_scores", WeightPolicy::keep_scores},
                                                                 {"renormalize", WeightPolicy::renormalize},
                                                                 {"preserve_mass", WeightPolicy::preserve_mass},
                                                                 {"keep_slot", WeightPolicy::keep_slot},
                                                                 {"hole", WeightPolicy::hole},
                                                                 {"recorded", WeightPolicy::recorded}}};
constexpr std::array<Named<Phase>, 3> phases = {
    {{"given", Phase::given}, {"generated", Phase::generated}, {"all", Phase::all}}};

// Conditions that no token can ever meet together.
void refuse_never(const json::Ref& tokens, const TokenSelector& selector) {
  if (selector.phase == Phase::generated && !selector.span.empty())
    tokens.at("phase").fail(
        "expected \"given\" or \"all\" beside a span, for generated tokens are in no span, found \"generated\"");
  if (selector.phase == Phase::generated && selector.end <= 1)
    tokens.at("positions")
        .fail(
            "expected positions from 1 on beside the phase \"generated\", for the first token is a given one, found "
            "\"" +
            tokens.at("positions").string() + "\"");
}

// Reads one edit and remembers which keys belong to it, so that all others can be refused.
class Parser {
 public:
  Parser(const json::Ref& ref, const std::filesystem::path& base_dir, uint64_t seed, bool memory)
      : base_dir_(base_dir), memory_(memory), spec_(ref) {
    spec_.seed = seed;
  }

  EditSpec parse() {
    const Op op = choose(at("op"), ops);
    what_ = spec_.ref.at("op").string();
    switch (op) {
      case Op::deactivate: deactivate(); break;
      case Op::activate: activate(); break;
      case Op::misroute: misroute(); break;
      case Op::replay: replay(); break;
      case Op::top_k: top_k(); break;
      case Op::temperature: temperature(); break;
      case Op::scale_expert: scale(EditOp::scale_expert); break;
      case Op::scale_shared: scale(EditOp::scale_shared); break;
      case Op::ablate: ablate(); break;
      case Op::add: add(); break;
      case Op::patch: patch(); break;
    }
    where(op != Op::scale_expert && op != Op::scale_shared && spec_.kind == EditSpec::Kind::router);
    for (const auto& [key, value] : spec_.ref.members()) {
      if (std::find(keys_.begin(), keys_.end(), key) == keys_.end()) refuse_key(key);
    }
    return std::move(spec_);
  }

 private:
  [[noreturn]] void refuse_key(const std::string& key) const {
    const std::vector<std::string> near = near_names(key, names_of(keys_));
    spec_.ref.fail("unknown key \"" + key + "\" for " + what_ + " (" +
                   (near.empty() ? "known: " + joined(keys_) : "nearest: " + joined(near)) + ")");
  }
  json::Ref at(std::string_view key) {
    keys_.push_back(key);
    auto found = spec_.ref.find(key);
    if (!found)
      spec_.ref.fail("expected the key \"" + std::string(key) + "\"" + (what_.empty() ? "" : " for " + what_) +
                     ", found none");
    return *found;
  }
  std::optional<json::Ref> find(std::string_view key) {
    keys_.push_back(key);
    return spec_.ref.find(key);
  }
  void experts(bool needed) {
    spec_.needs_experts = needed;
    if (needed) {
      const json::Ref ref = at("experts");
      spec_.experts = ExpertList::parse(ref, base_dir_);
      require_experts(ref, spec_.experts);
    } else if (auto found = find("experts")) {
      spec_.experts = ExpertList::parse(*found, base_dir_);
    }
  }

  static void require_experts(const json::Ref& ref, const ExpertList& experts) {
    if ((experts.kind == ExpertList::Kind::list && experts.list.empty()) ||
        (experts.kind == ExpertList::Kind::by_layer && experts.by_layer.empty()))
      ref.fail("expected at least one expert, found none");
    for (const auto& [layer, list] : experts.by_layer)
      if (list.empty()) ref.fail("expected at least one expert in layer " + std::to_string(layer) + ", found none");
  }

  void deactivate() {
    const Mode mode = choose(at("mode"), deactivate_modes);
    what_ += " " + spec_.ref.at("mode").string();
    spec_.op = mode == Mode::bias ? EditOp::bias : mode == Mode::steermoe ? EditOp::steermoe_down : EditOp::ban;
    if (mode == Mode::bias) spec_.by = -float_number(at("by"));
    experts(true);
  }
  void activate() {
    const Mode mode = choose(at("mode"), activate_modes);
    what_ += " " + spec_.ref.at("mode").string();
    spec_.op = mode == Mode::bias ? EditOp::bias : mode == Mode::steermoe ? EditOp::steermoe_up : EditOp::force;
    if (mode == Mode::bias) spec_.by = float_number(at("by"));
    experts(true);
  }
  void misroute() {
    spec_.op = choose(at("policy"), policies);
    what_ += " " + spec_.ref.at("policy").string();
    if (spec_.op == EditOp::shift) spec_.by = static_cast<double>(at("by").integer(-(1 << 20), 1 << 20));
    if (spec_.op == EditOp::fixed) experts(true);
    if (spec_.op == EditOp::frequency_matched) spec_.file = file_path(at("rates"), base_dir_);
    if (spec_.op == EditOp::random)
      if (auto exclude = find("exclude_original")) spec_.exclude_original = exclude->boolean();
    if (spec_.op != EditOp::shift && spec_.op != EditOp::permute && spec_.op != EditOp::fixed)
      if (auto within = find("within")) {
        if (!within->value().is_string() || within->string() != "kept_groups") within->fail_type("\"kept_groups\"");
        spec_.within_kept = true;
      }
    if (spec_.op == EditOp::gumbel) {
      const json::Ref tau = at("tau");
      spec_.by = float_number(tau);
      if (spec_.by < 0) tau.fail_type("a number of at least 0");
    }
  }
  void replay() {
    spec_.op = EditOp::replay;
    recording(at("trace"));
    if (auto sample = find("sample")) spec_.sample = sample->string();
    if (auto past = find("past")) {
      if (!past->value().is_string() || past->string() != "leave") past->fail_type("\"leave\"");
      spec_.leave_past = true;
    }
  }
  void top_k() {
    spec_.op = EditOp::top_k;
    spec_.k = at("k").integer(1, 1 << 20);
  }
  void temperature() {
    spec_.op = EditOp::temperature;
    const json::Ref t = at("t");
    spec_.by = float_number(t);
    if (spec_.by <= 0) t.fail_type("a number above 0");
  }
  void scale(EditOp op) {
    spec_.op = op;
    spec_.by = float_number(at("by"));
    if (op == EditOp::scale_expert) experts(true);
  }

  void point() {
    const json::Ref ref = at("point");
    std::optional<Point> point = find_point(ref.string());
    if (!point) {
      if (auto full = parse_point(ref.string())) {
        point = full->point;
        spec_.layers.all = false;
        spec_.layers.items = {{full->layer, full->layer, false}};
        spec_.layers_given = full_name_ = true;
      }
    }
    if (!point || !point_info(*point).writable)
      ref.fail(wrong_name("a point that can be written", ref.string(), writable_point_names(), "docs/probes.md"));
    spec_.point = *point;
    if (point_info(*point).slots()) experts(false);
  }
  // "memory:NAME", where that is no file.
  bool in_memory(const json::Ref& ref) {
    constexpr std::string_view prefix = "memory:";
    const std::string& text = ref.string();
    if (!memory_ || !text.starts_with(prefix)) return false;
    spec_.memory = text.substr(prefix.size());
    if (spec_.memory.empty()) ref.fail_type("\"memory:NAME\"");
    return true;
  }
  void recording(const json::Ref& ref) {
    if (!in_memory(ref)) spec_.file = file_path(ref, base_dir_);
  }
  void tensor(const json::Ref& ref) {
    if (ref.value().type() == json::Type::array) return numbers(ref);
    if (in_memory(ref)) return;
    const std::string& text = ref.string();
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) ref.fail_type("\"FILE:tensor\"");
    spec_.source = {base_dir_ / text.substr(0, colon), text.substr(colon + 1)};
  }
  // The values themselves, in place of a file's. ValueSource reads them from the list.
  void numbers(const json::Ref& ref) {
    constexpr size_t most = size_t{1} << 20;
    const std::vector<json::Ref> items = ref.items();
    if (items.empty() || items.size() > most)
      ref.fail("expected 1 to " + std::to_string(most) + " numbers, found " + std::to_string(items.size()));
    for (const json::Ref& item : items) float_number(item);
    spec_.source.tensor = "given numbers";
  }
  void neurons() {
    if (auto neurons = find("neurons")) {
      spec_.neurons_given = true;
      for (const json::Ref& item : neurons->items())
        spec_.neurons.push_back(static_cast<int32_t>(item.integer(0, INT32_MAX)));
      std::sort(spec_.neurons.begin(), spec_.neurons.end());
      auto twice = std::adjacent_find(spec_.neurons.begin(), spec_.neurons.end());
      if (twice != spec_.neurons.end())
        neurons->fail("expected each neuron once, found " + std::to_string(*twice) + " twice");
    }
  }
  void ablate() {
    spec_.kind = EditSpec::Kind::ablate;
    point();
    const json::Ref value = at("value");
    if (value.value().type() == json::Type::object) {
      value.reject_unknown({"mean_of"});
      spec_.value = EditSpec::Value::mean;
      recording(value.at("mean_of"));
    } else if (value.value().type() != json::Type::array &&
               (!value.value().is_string() ||
                (value.string() != "zero" && value.string().find(':') == std::string::npos))) {
      value.fail_type("\"zero\", \"FILE:tensor\", a list of numbers or {\"mean_of\": TRACE}");
    } else if (value.value().type() == json::Type::array || value.string() != "zero") {
      spec_.value = EditSpec::Value::tensor;
      tensor(value);
    }
    neurons();
  }
  void add() {
    spec_.kind = EditSpec::Kind::add;
    point();
    if (auto from = find("from")) {
      if (spec_.ref.find("vector")) from->fail("expected \"vector\" or \"from\", found both");
      spec_.adds_recording = true;
      recording(*from);
      if (auto sample = find("sample")) spec_.sample = sample->string();
    } else {
      tensor(at("vector"));
    }
    spec_.by = 1;
    if (auto scale = find("scale")) spec_.by = float_number(*scale);
  }
  void patch() {
    spec_.kind = EditSpec::Kind::patch;
    point();
    recording(at("from"));
    if (auto sample = find("sample")) spec_.sample = sample->string();
    neurons();
  }

  // The keys that every edit has.
  void where(bool has_weights) {
    if (spec_.kind == EditSpec::Kind::router || point_info(spec_.point).per_layer) {
      if (auto layers = find("layers")) {
        if (full_name_) layers->fail("expected no layers beside a point that names its own, found both");
        if (spec_.experts.kind == ExpertList::Kind::by_layer)
          layers->fail("expected no layers beside experts by layer, which name their own, found both");
        spec_.layers = LayerList::parse(*layers);
        spec_.layers_given = true;
      }
      if (full_name_ && spec_.experts.kind == ExpertList::Kind::by_layer)
        spec_.ref.at("experts").fail("expected a list beside a point that names its layer, found layers");
    }
    if (auto tokens = find("tokens")) {
      spec_.tokens = TokenSelector::parse(*tokens);
      refuse_never(*tokens, spec_.tokens);
    }
    if (auto seed = find("seed")) spec_.seed = static_cast<uint64_t>(seed->integer(0, INT64_MAX));
    if (!has_weights) return;
    if (auto weights = find("weights")) {
      spec_.weights = choose(*weights, weight_policies);
      if (spec_.weights == WeightPolicy::recorded && spec_.op != EditOp::replay)
        weights->fail("expected \"recorded\" only for replay, found it for " + what_);
    }
  }

  const std::filesystem::path& base_dir_;
  bool memory_;
  EditSpec spec_;
  std::string what_;                    // "misroute shift"
  std::vector<std::string_view> keys_;  // that belong to this edit
  bool full_name_ = false;              // the point names its layer
};

}  // namespace

TokenSelector TokenSelector::parse(const json::Ref& tokens) {
  TokenSelector selector;
  tokens.reject_unknown({"phase", "span", "positions", "fraction", "margin_below", "near_tie_below"});
  if (auto phase = tokens.find("phase")) selector.phase = choose(*phase, phases);
  if (auto span = tokens.find("span")) {
    selector.span = span->string();
    if (selector.span.empty()) span->fail_type("the name of a span");
  }
  if (auto positions = tokens.find("positions")) parse_positions(*positions, selector.begin, selector.end);
  if (auto fraction = tokens.find("fraction")) {
    selector.fraction = fraction->number();
    if (selector.fraction < 0 || selector.fraction > 1) fraction->fail_type("a number from 0 to 1");
  }
  for (const auto& [key, value] :
       {std::pair("margin_below", &selector.margin_below), std::pair("near_tie_below", &selector.near_tie_below)})
    if (auto margin = tokens.find(key)) {
      *value = float_number(*margin);
      if (*value < 0) margin->fail_type("a number of at least 0");
    }
  return selector;
}

EditSpec EditSpec::parse(const json::Ref& edit, const std::filesystem::path& base_dir, uint64_t seed, bool memory) {
  edit.expect_object();
  return Parser(edit, base_dir, seed, memory).parse();
}

}  // namespace signalbox::probes
