#include "eval/experiment/spec.h"

#include <algorithm>
#include <set>

#include "base/near_names.h"
#include "base/text.h"
#include "eval/experiment/spec_detect.h"
#include "eval/score/judge.h"

namespace signalbox::eval {

namespace {

constexpr size_t max_name = 200;  // of a component of a file's name there are 255 bytes

// A name that becomes a directory, and part of "NAME/random-0".
std::string checked_name(const json::Ref& ref, const std::string& name) {
  const bool plain = std::all_of(name.begin(), name.end(),
                                 [](char c) { return c != '/' && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
  if (name.empty() || name == "." || name == ".." || !plain || name.size() > max_name)
    ref.fail("expected a name of 1 to " + std::to_string(max_name) +
             " bytes without '/' and control characters, found " + json::dump(json::Value(name)));
  return name;
}
std::string checked_name(const json::Ref& ref) { return checked_name(ref, ref.string()); }

void check_line(const json::Ref& text) {
  if (text.string().empty() || text.string().find_first_of("\r\n") != std::string::npos)
    text.fail_type("one line of text");
}

std::vector<std::string> strings(const json::Ref& list, const std::string& what) {
  std::vector<std::string> found;
  for (const json::Ref& item : list.items()) {
    found.push_back(item.string());
    if (found.back().empty()) item.fail_type(what);
  }
  return found;
}

std::vector<std::string> metric_names() { return names_of(scorers(), &Scorer::name); }

template <class T>
bool contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

class SpecParser {
 public:
  SpecParser(const json::Ref& root, const std::filesystem::path& base_dir) : root_(root) {
    spec_.where = root.where();
    spec_.base_dir = base_dir;
    spec_.source = root.value();
  }

  ExperimentSpec parse() {
    root_.expect_object();
    root_.reject_unknown({"title",   "question", "model",       "data",      "generate", "programs",
                          "detect",  "audit",    "tune",        "baseline",  "controls", "interventions",
                          "metrics", "seeds",    "split",       "cross_fit", "traces",   "judges",
                          "primary", "seed",     "equivalence", "resamples", "adapter"});
    // Words for the report, which takes them from the spec as given: they change no result.
    for (const char* words : {"title", "question"})
      if (auto text = root_.find(words)) check_line(*text);
    paths();
    if (auto generate = root_.find("generate")) spec_.generate = read_generate(*generate);
    if (auto programs = root_.find("programs")) read_programs(*programs);
    if (auto detect = root_.find("detect"))
      for (const auto& [name, stage] : detect->members())
        for (DetectSpec& point : read_detect_stage(checked_name(*detect, name), stage, spec_.generate.has_value()))
          spec_.detect.push_back(std::move(point));
    interventions();
    if (auto audit = root_.find("audit")) spec_.audit = read_audit(*audit);
    if (auto judges = root_.find("judges"))
      for (const auto& [name, judge] : judges->members()) spec_.judges.push_back(read_judge(*judges, name, judge));
    if (auto metrics = root_.find("metrics")) read_metrics(*metrics);
    if (auto seeds = root_.find("seeds")) read_seeds(*seeds);
    if (auto split = root_.find("split")) spec_.split = read_split(*split);
    if (auto fit = root_.find("cross_fit")) spec_.cross_fit = read_cross_fit(*fit);
    if (auto traces = root_.find("traces")) spec_.traces = read_traces(*traces);
    if (auto tune = root_.find("tune")) spec_.tune = read_tune(*tune);
    if (auto resamples = root_.find("resamples")) spec_.resamples = resamples->integer(1, 100'000'000);
    if (auto seed = root_.find("seed")) spec_.seed = static_cast<uint64_t>(seed->integer(0, INT64_MAX));
    if (auto primary = root_.find("primary")) spec_.primary = read_primary(*primary);
    if (auto equivalence = root_.find("equivalence")) read_equivalence(*equivalence);
    if (spec_.metrics_given) check_chosen_metrics(spec_, spec_.metrics);
    check_detection();
    check_routes();
    check_judges();
    return std::move(spec_);
  }

 private:
  void paths() {
    const json::Ref model = root_.at("model"), data = root_.at("data");
    if (model.string().empty()) model.fail_type("a directory, org/name[@revision] or builtin");
    const std::filesystem::path local = spec_.base_dir / model.string();
    std::error_code ignored;
    spec_.model = std::filesystem::is_directory(local, ignored) ? local.string() : model.string();
    if (const auto adapter = root_.find("adapter")) {
      const bool one = adapter->value().is_string();
      spec_.adapters =
          one ? std::vector<std::string>{adapter->string()} : strings(*adapter, "the directory of an adapter");
      if (spec_.adapters.empty() || spec_.adapters.front().empty())
        adapter->fail_type("the directory of an adapter, or a list of some");
    }
    if (data.string().empty() || data.string() == "-")
      data.fail_type("a file (it is read again when the run is continued)");
    spec_.data = spec_.base_dir / data.string();
  }

  static GenerateSpec read_generate(const json::Ref& ref) {
    ref.expect_object();
    ref.reject_unknown({"max_tokens", "temperature", "top_p", "top_k", "samples", "stop", "ignore_eos"});
    GenerateSpec out;
    if (auto value = ref.find("max_tokens")) out.max_tokens = value->integer(1, INT32_MAX);
    if (auto value = ref.find("temperature")) {
      out.sampling.temperature = value->number();
      if (!(out.sampling.temperature >= 0 && out.sampling.temperature <= 1000))
        value->fail_type("a number from 0 to 1000");
    }
    if (auto value = ref.find("top_p")) {
      out.sampling.top_p = value->number();
      if (!(out.sampling.top_p >= 0 && out.sampling.top_p <= 1)) value->fail_type("a number from 0 to 1");
    }
    if (auto value = ref.find("top_k")) out.sampling.top_k = static_cast<int32_t>(value->integer(0, 1 << 30));
    if (auto value = ref.find("samples")) out.samples = value->integer(1, 1'000'000);
    if (auto value = ref.find("stop")) out.stop = strings(*value, "a text that is not empty");
    if (auto value = ref.find("ignore_eos")) out.ignore_eos = value->boolean();
    return out;
  }

  void read_programs(const json::Ref& ref) {
    spec_.programs = parse_programs(ref, spec_.base_dir);
    if (spec_.generate) return;
    for (const Program& program : spec_.programs)
      if (program.has_settings())
        ref.fail("expected \"generate\" in the spec, for program " + program.name +
                 " says how text is generated, found none");
  }

  static ControlsSpec read_controls(const json::Ref& ref) {
    if (ref.is_null()) return {};
    if (ref.value().type() == json::Type::boolean) return ref.boolean() ? default_controls : ControlsSpec{};
    if (ref.value().type() != json::Type::object)
      ref.fail_type("{\"random\": N, \"frequency_matched\": N, \"bottom\": true}, true or false");
    ref.reject_unknown({"random", "frequency_matched", "bottom"});
    ControlsSpec out;
    if (auto value = ref.find("random")) out.random = value->integer(0, 10000);
    if (auto value = ref.find("frequency_matched")) out.frequency_matched = value->integer(0, 10000);
    if (auto value = ref.find("bottom")) out.bottom = value->boolean();
    return out;
  }
  // `null` means none here, so find() will not do.
  static ControlsSpec controls_or(const json::Ref& object, const ControlsSpec& otherwise) {
    return object.value().find("controls") ? read_controls(object.at("controls")) : otherwise;
  }

  void interventions() {
    const json::Ref list = root_.at("interventions");
    const ControlsSpec controls = controls_or(root_, default_controls);
    std::set<std::string> names;
    for (const json::Ref& entry : list.items()) {
      entry.expect_object();
      entry.reject_unknown({"name", "description", "edits", "grid", "controls"});
      const json::Ref name = entry.at("name");
      checked_name(name);
      if (name.string() == "audit") name.fail("expected another name than \"audit\", which is that of the audit's");
      if (!names.insert(name.string()).second)
        name.fail("expected each name once, found \"" + name.string() + "\" again");
      intervention(entry, name.string(), controls);
    }
    if (names.empty()) list.fail("expected at least the baseline, found none");
    if (auto baseline = root_.find("baseline")) spec_.baseline = baseline->string();
    const auto found = std::find_if(spec_.interventions.begin(), spec_.interventions.end(),
                                    [&](const InterventionSpec& i) { return i.entry == spec_.baseline; });
    if (found == spec_.interventions.end())
      list.fail("expected the baseline \"" + spec_.baseline + "\" among them, found none of that name");
    if (!found->edits.items().empty() || !found->grid.empty())
      throw Error(spec_.where, found->path + ".edits: expected none for the baseline, found some");
  }

  void intervention(const json::Ref& entry, const std::string& name, const ControlsSpec& controls) {
    for (ExpandedEdits& point : over_detection(expand_grid(entry, name), name, entry, spec_.detect)) {
      InterventionSpec out;
      out.entry = name;
      out.path = entry.path();
      if (!point.grid.empty()) out.path += " (" + point.name.substr(name.size() + 1) + ")";
      if (auto description = entry.find("description")) {
        check_line(*description);
        out.description = description->string();
      }
      out.controls = controls_or(entry, controls);
      const json::Ref edits(point.edits, spec_.where, out.path + ".edits");
      for (const json::Ref& edit : edits.items()) {
        const EditSpec parsed = EditSpec::parse(edit, spec_.base_dir, 0);
        const ExpertList& experts = parsed.experts;
        out.lists_experts |=
            !experts.list.empty() || std::any_of(experts.by_layer.begin(), experts.by_layer.end(),
                                                 [](const auto& layer) { return !layer.second.empty(); });
        out.names_experts |= out.lists_experts || experts.kind == ExpertList::Kind::ranking;
      }
      if (auto own = entry.find("controls"); own && out.controls.any() && !out.names_experts)
        own->fail("expected edits that name experts, for controls to replace, found none");
      out.name = std::move(point.name);
      out.edits = std::move(point.edits);
      out.grid = std::move(point.grid);
      spec_.interventions.push_back(std::move(out));
    }
  }

  AuditSpec read_audit(const json::Ref& ref) const {
    if (ref.value().is_string()) {
      if (ref.string() != "all") ref.fail_type("\"all\" or an object");
      const json::Value all = json::Value::object().set("experts", "all");
      return read_audit(json::Ref(all, ref.where(), ref.path()));
    }
    ref.expect_object();
    ref.reject_unknown({"from", "top", "sign", "per_layer", "by", "q_below", "metric", "condition", "domain", "layers",
                        "experts", "mode", "tokens", "weights"});
    const auto from = ref.find("from"), experts = ref.find("experts");
    if (from.has_value() == experts.has_value())
      ref.fail(std::string("expected either \"from\" or \"experts\", found ") + (from ? "both" : "neither"));
    AuditSpec out;
    out.all = experts && experts->value().is_string();
    if (out.all && experts->string() != "all") experts->fail_type("\"all\" or an object of lists by layer");
    std::vector<json::Value> candidates;  // values of "experts", one an edit
    for (const std::string& one : rankings_of_audit(from)) {
      json::Value chosen = json::Value::object();
      chosen.set("from", one);
      candidates.push_back(std::move(chosen));
    }
    for (const char* key : {"top", "sign", "per_layer", "by", "q_below", "metric", "condition", "domain"})
      if (auto value = ref.find(key)) {
        if (experts) value->fail("expected it only beside \"from\", found it beside \"experts\"");
        for (json::Value& chosen : candidates) chosen.set(key, value->value());
      }
    for (const json::Value& chosen : candidates)
      ExpertList::parse(json::Ref(chosen, ref.where(), ref.path()), spec_.base_dir);
    if (out.all) candidates.push_back(json::Value::array().push_back(0));
    if (experts && !out.all) {
      if (experts->value().type() != json::Type::object) experts->fail_type("\"all\" or an object of lists by layer");
      if (experts->value().find("from")) experts->fail_type("an object of lists by layer");
      candidates.push_back(experts->value());
    }

    std::string mode = "ban";
    if (auto found = ref.find("mode")) {
      mode = found->string();
      if (mode != "ban" && mode != "steermoe" && mode != "zero") found->fail_type("\"ban\", \"steermoe\" or \"zero\"");
      if (mode == "zero" && ref.find("weights")) ref.at("weights").fail("expected none beside mode zero, found some");
    }
    for (json::Value& chosen : candidates) {
      json::Value edit = json::Value::object();
      if (mode == "zero")
        edit.set("op", "scale_expert").set("by", 0);
      else
        edit.set("op", "deactivate").set("mode", mode);
      edit.set("experts", std::move(chosen));
      for (const char* key : {"layers", "tokens", "weights"})
        if (auto value = ref.find(key)) edit.set(key, value->value());
      EditSpec::parse(json::Ref(edit, ref.where(), ref.path()), spec_.base_dir, 0);
      out.edits.push_back(std::move(edit));
    }
    return out;
  }

  // What "from" of the audit says: one ranking, or stages of detection.
  std::vector<std::string> rankings_of_audit(const std::optional<json::Ref>& from) const {
    std::vector<std::string> out;
    if (!from) return out;
    if (from->value().type() != json::Type::array) return {from->string()};
    for (const json::Ref& one : from->items()) {
      if (!one.string().starts_with(detect_prefix)) one.fail_type("\"detect:NAME\" in a list of rankings");
      if (contains(out, one.string()))
        one.fail("expected each stage once, found " + in_quotes(one.string()) + " again");
      out.push_back(one.string());
    }
    if (out.empty()) from->fail("expected at least one stage of detection, found none");
    return out;
  }

  JudgeSpec read_judge(const json::Ref& judges, const std::string& name, const json::Ref& ref) const {
    const JudgeCommand judge = parse_judge(checked_name(judges, name), ref);
    return {judge.name, judge.argv, command_beside(judge.argv, spec_.base_dir), judge.timeout_seconds, judge.batch};
  }

  void check_metric(const json::Ref& ref) const {
    const std::string& name = ref.string();
    if (name.starts_with(judge_prefix)) {
      if (!spec_.find_judge(name.substr(judge_prefix.size())))
        ref.fail(wrong_name("a judge of \"judges\"", name, names_of(spec_.judges, [](const JudgeSpec& judge) {
                              return std::string(judge_prefix) + judge.name;
                            })));
    } else if (!find_scorer(name)) {
      ref.fail(wrong_name("a metric", name, metric_names(), "docs/scores.md"));
    }
    if (metric_needs(name) == Needs::text && !spec_.generate)
      ref.fail("expected \"generate\" in the spec for \"" + name + "\", which needs text, found none");
  }
  void read_metrics(const json::Ref& ref) {
    spec_.metrics_given = true;
    for (const json::Ref& item : ref.items()) {
      check_metric(item);
      if (contains(spec_.metrics, item.string()))
        item.fail("expected each metric once, found \"" + item.string() + "\" again");
      spec_.metrics.push_back(item.string());
    }
    if (spec_.metrics.empty()) ref.fail("expected at least one metric, found none");
  }

  void read_seeds(const json::Ref& ref) {
    spec_.seeds.clear();
    for (const json::Ref& item : ref.items()) {
      const uint64_t seed = static_cast<uint64_t>(item.integer(0, INT64_MAX));
      if (contains(spec_.seeds, seed)) item.fail("expected each seed once, found " + std::to_string(seed) + " again");
      spec_.seeds.push_back(seed);
    }
    if (spec_.seeds.empty()) ref.fail("expected at least one seed, found none");
  }

  static SplitSpec read_split(const json::Ref& ref) {
    ref.expect_object();
    ref.reject_unknown({"key", "detect", "tune", "test", "share", "seed"});
    SplitSpec out;
    if (const auto share = ref.find("share")) {
      out.share = share->number();
      if (!(out.share > 0 && out.share < 1)) share->fail_type("a number between 0 and 1");
      if (const auto tune = ref.find("tune"))
        tune->fail("expected none beside \"share\", which deals records to detect and test, found one");
      if (const auto seed = ref.find("seed")) out.seed = static_cast<uint64_t>(seed->integer(0, INT64_MAX));
      out.detect = "detect";
      out.test = "test";
    } else if (const auto seed = ref.find("seed")) {
      seed->fail("expected \"share\" beside it, found none");
    }
    const auto text = [&](const char* key, std::string& into) {
      const auto found = ref.find(key);
      if (!found) return;
      into = found->string();
      if (into.empty()) found->fail_type("a text that is not empty");
    };
    text("key", out.key);
    text("detect", out.detect);
    text("tune", out.tune);
    if (out.share == 0) ref.at("test");
    text("test", out.test);
    if (out.test.empty()) ref.at("test").fail_type("a string");
    if (out.share > 0 && out.detect == out.test)
      ref.fail("expected two names for the parts that are dealt, found " + in_quotes(out.test) + " for both");
    for (auto [a, b] : {std::pair("detect", "test"), {"tune", "test"}, {"detect", "tune"}}) {
      const auto first = ref.find(a), second = ref.find(b);
      if (first && second && first->string() == second->string())
        second->fail("expected another split than that of " + std::string(a) + ", found \"" + second->string() +
                     "\" for both");
    }
    return out;
  }

  CrossFitSpec read_cross_fit(const json::Ref& ref) const {
    ref.expect_object();
    ref.reject_unknown({"deals", "share"});
    CrossFitSpec out;
    out.deals = ref.at("deals").integer(2, 1000);
    if (auto share = ref.find("share")) out.share = share->number();
    if (!(out.share > 0 && out.share < 1)) ref.at("share").fail_type("a number between 0 and 1");
    if (spec_.split) ref.fail("expected no \"split\" beside it, for the deals split the records, found one");
    if (root_.find("tune")) ref.fail("expected no \"tune\" beside it, which needs records of its own, found one");
    const std::vector<RankingUse> uses = rankings_of(spec_);
    if (std::none_of(uses.begin(), uses.end(), [](const RankingUse& use) { return !use.detect.empty(); }))
      ref.fail("expected an intervention or an audit that takes experts from \"detect:NAME\", found none");
    return out;
  }

  TraceSpec read_traces(const json::Ref& ref) const {
    TraceSpec out;
    if (ref.value().type() == json::Type::boolean) {
      out.on = ref.boolean();
      return out;
    }
    if (ref.value().type() != json::Type::object)
      ref.fail_type("true, false or {\"points\": GLOBS, \"of\": [NAME...]}");
    ref.reject_unknown({"points", "of"});
    out.on = true;
    if (auto points = ref.find("points")) {
      out.points = points->string();
      if (out.points.empty()) points->fail_type("globs such as \"*.router.ids,*.router.weights\"");
    }
    auto of = ref.find("of");
    if (!of) return out;
    out.all = false;
    const auto add = [&](const json::Ref& name) {
      const std::string& text = name.string();
      const bool known = (text == "audit" && spec_.audit) ||
                         std::any_of(spec_.interventions.begin(), spec_.interventions.end(),
                                     [&](const InterventionSpec& i) { return i.entry == text || i.name == text; });
      if (!known) name.fail(wrong_name("the name of an intervention", text, intervention_names()));
      if (contains(out.of, text)) name.fail("expected each name once, found \"" + text + "\" again");
      out.of.push_back(text);
    };
    if (of->value().is_string()) {
      add(*of);
    } else {
      for (const json::Ref& name : of->items()) add(name);
    }
    if (out.of.empty()) of->fail("expected at least one name, found none");
    return out;
  }

  // Of the spec's entries, and of the points of their grids.
  std::vector<std::string> intervention_names() const {
    std::vector<std::string> names;
    for (const auto member : {&InterventionSpec::entry, &InterventionSpec::name})
      for (const InterventionSpec& one : spec_.interventions)
        if (!contains(names, one.*member)) names.push_back(one.*member);
    return names;
  }

  TuneSpec read_tune(const json::Ref& ref) const {
    ref.expect_object();
    ref.reject_unknown({"metric", "goal"});
    TuneSpec out;
    const json::Ref metric = ref.at("metric"), goal = ref.at("goal");
    check_metric(metric);
    out.metric = metric.string();
    if (metric_needs(out.metric) == Needs::routes)
      metric.fail("expected a metric of samples, found \"" + out.metric + "\", which needs traces (tuning makes none)");
    if (spec_.metrics_given && !contains(spec_.metrics, out.metric))
      metric.fail(wrong_name("one of \"metrics\"", out.metric, spec_.metrics));
    if (goal.string() != "higher" && goal.string() != "lower") goal.fail_type("\"higher\" or \"lower\"");
    out.higher = goal.string() == "higher";
    if (!spec_.split || spec_.split->tune.empty())
      ref.fail("expected a split with \"tune\" for tuning, so that no record serves two purposes, found none");
    if (std::none_of(spec_.interventions.begin(), spec_.interventions.end(),
                     [](const InterventionSpec& i) { return !i.grid.empty(); }))
      ref.fail("expected an intervention with a grid to choose from, found none");
    return out;
  }

  PrimarySpec read_primary(const json::Ref& ref) const {
    ref.expect_object();
    ref.reject_unknown({"interventions", "metrics"});
    PrimarySpec out;
    const auto interventions = ref.find("interventions"), metrics = ref.find("metrics");
    if (!interventions && !metrics) ref.fail("expected \"interventions\" or \"metrics\", found neither");
    const auto read = [](const json::Ref& list, std::vector<std::string>& into, auto check) {
      for (const json::Ref& item : list.items()) {
        check(item);
        if (contains(into, item.string())) item.fail("expected each name once, found \"" + item.string() + "\" again");
        into.push_back(item.string());
      }
      if (into.empty()) list.fail("expected at least one name, found none");
    };
    if (interventions) read(*interventions, out.interventions, [&](const json::Ref& name) { check_primary(name); });
    if (metrics) read(*metrics, out.metrics, [&](const json::Ref& name) { check_metric(name); });
    return out;
  }

  void check_primary(const json::Ref& ref) const {
    const std::string& name = ref.string();
    if (name == spec_.baseline)
      ref.fail("expected an intervention beside the baseline, which all are compared with, found the baseline");
    const auto is = [&](auto member) {
      return std::any_of(spec_.interventions.begin(), spec_.interventions.end(),
                         [&](const InterventionSpec& i) { return i.*member == name; });
    };
    if (is(&InterventionSpec::entry)) return;
    if (!is(&InterventionSpec::name)) ref.fail(wrong_name("the name of an intervention", name, intervention_names()));
    if (spec_.tune)
      ref.fail("expected the name of the whole grid, whose point \"tune\" chooses, found \"" + name + "\"");
  }

  // {"margin": m}, {METRIC: {"margin": m}}, or both.
  void read_equivalence(const json::Ref& ref) {
    ref.expect_object();
    const auto margin_of = [](const json::Ref& margin) {
      if (!(margin.number() > 0 && margin.number() <= 1e300)) margin.fail_type("a number above 0");
      return margin.number();
    };
    for (const auto& [key, value] : ref.members()) {
      if (key == "margin") {
        spec_.equivalence.margin = margin_of(value);
        continue;
      }
      json::Value name(key);
      check_metric(json::Ref(name, ref.where(), ref.path() + "." + key));
      value.expect_object();
      value.reject_unknown({"margin"});
      spec_.equivalence.by_metric.emplace_back(key, margin_of(value.at("margin")));
    }
    if (!spec_.equivalence.margin && spec_.equivalence.by_metric.empty())
      ref.fail("expected {\"margin\": M} or {METRIC: {\"margin\": M}}, found neither");
  }

  void check_detection() const {
    for (const RankingUse& use : rankings_of(spec_)) {
      if (use.detect.empty()) continue;
      if (!spec_.find_detect(use.detect)) {
        const bool gridded = std::any_of(spec_.detect.begin(), spec_.detect.end(),
                                         [&](const DetectSpec& stage) { return stage.entry == use.detect; });
        throw Error(spec_.where, use.path + ": " +
                                     wrong_name(gridded ? "a point of the stage's grid" : "a stage of \"detect\"",
                                                use.detect, names_of(spec_.detect, &DetectSpec::name)));
      }
      if (!spec_.split && !spec_.cross_fit)
        throw Error(spec_.where, use.path + ": expected a \"split\", for experts found in a run's own data cannot be " +
                                     "tested on the same records, found none ({\"share\": 0.5} deals them out in the " +
                                     "run; signalbox data split writes a file with splits)");
    }
    for (const DetectSpec& stage : spec_.detect)
      if (stage.held_out && !spec_.split && !spec_.cross_fit)
        throw Error(spec_.where, "detect." + stage.name + ".held_out: expected a \"split\", whose test records are " +
                                     "measured beside those of detection, found none");
    if (!spec_.detect.empty() && spec_.split && spec_.split->detect.empty())
      throw Error(spec_.where, "split: expected \"detect\", the split that detection sees, found none");
  }

  void check_routes() const {
    if (spec_.traces.on && spec_.traces.all) return;
    for (size_t i = 0; i < spec_.metrics.size(); ++i)
      if (metric_needs(spec_.metrics[i]) == Needs::routes)
        throw Error(spec_.where, "metrics[" + std::to_string(i) +
                                     "]: expected \"traces\" of every intervention for \"" + spec_.metrics[i] +
                                     "\", found " + (spec_.traces.on ? "those of some" : "none"));
  }

  // A judge that no metric asks for would never run.
  void check_judges() const {
    for (const JudgeSpec& judge : spec_.judges) {
      const std::string metric = std::string(judge_prefix) + judge.name;
      if (!contains(spec_.metrics, metric))
        throw Error(spec_.where, "judges." + judge.name + ": expected the metric \"" + metric + "\", found none");
    }
  }

  json::Ref root_;
  ExperimentSpec spec_;
};

}  // namespace

const DetectSpec* ExperimentSpec::find_detect(std::string_view name) const {
  for (const DetectSpec& stage : detect)
    if (stage.name == name) return &stage;
  return nullptr;
}

const JudgeSpec* ExperimentSpec::find_judge(std::string_view name) const {
  for (const JudgeSpec& judge : judges)
    if (judge.name == name) return &judge;
  return nullptr;
}

bool ExperimentSpec::traced(std::string_view entry, std::string_view name) const {
  if (!traces.on || traces.all) return traces.on;
  if (contains(traces.of, std::string(name))) return true;
  // A control has the entry of what it controls, but is neither its entry nor one of its points.
  const bool own = entry == "audit" || std::any_of(interventions.begin(), interventions.end(),
                                                   [&](const InterventionSpec& i) { return i.name == name; });
  return own && contains(traces.of, std::string(entry));
}

std::optional<double> EquivalenceSpec::of(std::string_view metric) const {
  for (const auto& [name, value] : by_metric)
    if (name == metric) return value;
  return margin;
}

void check_chosen_metrics(const ExperimentSpec& spec, const std::vector<std::string>& metrics) {
  const auto check = [&](const std::string& path, const std::string& metric) {
    if (!contains(metrics, metric))
      throw Error(spec.where, path + ": " + wrong_name("a metric of the run", metric, metrics));
  };
  if (spec.primary)
    for (size_t i = 0; i < spec.primary->metrics.size(); ++i)
      check("primary.metrics[" + std::to_string(i) + "]", spec.primary->metrics[i]);
  for (const auto& [metric, margin] : spec.equivalence.by_metric) check("equivalence." + metric, metric);
}

Needs metric_needs(std::string_view metric) {
  if (metric.starts_with(judge_prefix)) return Needs::text;
  const Scorer* scorer = find_scorer(metric);
  if (!scorer) throw Error("metrics", wrong_name("the name of a metric", metric, metric_names(), "docs/scores.md"));
  return scorer->needs;
}

ExperimentSpec parse_experiment(const json::Ref& spec, const std::filesystem::path& base_dir) {
  return SpecParser(spec, base_dir).parse();
}

ExperimentSpec load_experiment(const std::filesystem::path& file) {
  const json::Value spec = json::parse_file(file, uint64_t{64} << 20);
  return parse_experiment(json::Ref(spec, file.string()), std::filesystem::absolute(file).parent_path());
}

std::vector<RankingUse> rankings_of(const ExperimentSpec& spec) {
  std::vector<RankingUse> uses;
  const auto add = [&](const json::Value& edit, const std::string& path) {
    const json::Value* experts = edit.find("experts");
    const json::Value* from = experts && experts->type() == json::Type::object ? experts->find("from") : nullptr;
    if (!from || from->is_null()) return;
    RankingUse use;
    use.path = path;
    use.given = from->string();
    if (from->string().starts_with(detect_prefix))
      use.detect = from->string().substr(detect_prefix.size());
    else
      use.file = spec.base_dir / from->string();
    uses.push_back(std::move(use));
  };
  for (const InterventionSpec& intervention : spec.interventions)
    for (size_t i = 0; i < intervention.edits.items().size(); ++i)
      add(intervention.edits.items()[i], intervention.path + ".edits[" + std::to_string(i) + "].experts.from");
  if (spec.audit)
    for (const json::Value& edit : spec.audit->edits) add(edit, spec.audit->path + ".from");
  return uses;
}

}  // namespace signalbox::eval
