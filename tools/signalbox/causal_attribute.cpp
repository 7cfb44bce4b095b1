// signalbox causal attribute: how much of a metric each part of a forward answers for, by gradients
// (docs/causal-attribute.md).
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "base/text_table.h"
#include "eval/causal/attribute.h"
#include "eval/causal/attribution_files.h"
#include "eval/causal/sequence_run.h"
#include "eval/findings/format.h"
#include "eval/store/kept_work.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/warning.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

constexpr size_t shown_totals = 10;

struct AttributeFlags {
  CommonOptions common;
  std::string input, metric, method, instead, reference, rule = "midpoint", routes = "model", final_norm = "recomputed",
                                                         out;
  int64_t steps = 32, max_crossings = 4096, top = 0;
  bool keep_all = false, grad_drop = false, qk_fix = false;
};

CLI::App* add_attribute_flags(CLI::App& app, AttributeFlags& flags) {
  CLI::App* attribute = app.add_subcommand(
      "attribute",
      "how much each part answers for, by gradients: atp, ig, eap, eap-ig, gain (docs/causal-attribute.md)");
  attribute->footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox causal attribute "
      "builtin --input - --metric logprob --method atp --out /tmp/attribution\n\n"
      "Records are run one by one: the way back needs what every layer of the record made, which is kept meanwhile.\n"
      "Its tokens go together, over all --threads.");
  attribute
      ->add_option("MODEL", flags.common.model,
                   "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(*attribute, flags.common);
  say_batch_changes_nothing(*attribute);
  attribute->add_option("--input", flags.input, "records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  attribute->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  attribute
      ->add_option("--method", flags.method,
                   "atp (parts), ig (tokens, along a path), eap (edges), eap-ig (edges, along a path), gain (experts, "
                   "chosen or not)")
      ->check(one_of({"atp", "ig", "eap", "eap-ig", "gain"}))
      ->type_name("NAME")
      ->required();
  attribute
      ->add_option("--instead", flags.instead,
                   "what takes a part's place: the corrupt record's (pairs), nothing (zero), its mean (mean); default: "
                   "pairs where records have one, else zero, of a path mean")
      ->check(one_of({"pairs", "zero", "mean"}))
      ->type_name("NAME");
  attribute->add_option("--reference", flags.reference, "records of the means, for --instead mean; default: the input")
      ->type_name("FILE");
  attribute->add_flag("--keep-all", flags.keep_all, "pairs that do not prefer their answer, too");
  attribute->add_flag("--grad-drop", flags.grad_drop,
                      "of atp: absolute scores with each layer's gradient dropped in turn, so that effects of opposite "
                      "sign do not hide one another");
  attribute->add_flag("--qk-fix", flags.qk_fix,
                      "of atp: queries and keys too, through the softmax, whose gradient is almost 0 where it is "
                      "saturated; with --grad-drop that is AtP*");
  attribute->add_option("--steps", flags.steps, "gradients on the path of ig and eap-ig, at least")
      ->check(in_range(int64_t{1}, int64_t{1} << 20))
      ->type_name("N")
      ->capture_default_str();
  attribute->add_option("--rule", flags.rule, "where on the path: in the middle of each part, or at its end towards x'")
      ->check(one_of({"midpoint", "left"}))
      ->type_name("NAME")
      ->capture_default_str();
  attribute
      ->add_option("--routes", flags.routes, "of ig: the model's on the path, with their jumps, or those of x held")
      ->check(one_of({"model", "held"}))
      ->type_name("NAME")
      ->capture_default_str();
  attribute->add_option("--max-crossings", flags.max_crossings, "of ig: changes of routes on a path, at most")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str();
  attribute
      ->add_option("--final-norm", flags.final_norm,
                   "its divisor: recomputed, or held, so that the logits are linear in the last stream")
      ->check(one_of({"recomputed", "held"}))
      ->type_name("NAME")
      ->capture_default_str();
  attribute->add_option("--top", flags.top, "of eap and eap-ig: edges of a record that are written; 0: all")
      ->check(in_range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str();
  attribute->add_option("--out", flags.common.trace, "directory of attribution.csv and totals.csv")
      ->type_name("DIR")
      ->required();
  return attribute;
}

// Flags that the method does not look at.
void refuse_idle_flags(const CLI::App& app, AttributionMethod method) {
  const bool path = method == AttributionMethod::ig || method == AttributionMethod::eap_ig,
             edges = method == AttributionMethod::eap || method == AttributionMethod::eap_ig,
             ig = method == AttributionMethod::ig, gain = method == AttributionMethod::gain;
  const std::tuple<const char*, bool, const char*> allowed[] = {
      {"--instead", !gain, "atp, ig, eap or eap-ig"},
      {"--reference", !gain, "atp, ig, eap or eap-ig"},
      {"--keep-all", !gain, "atp, ig, eap or eap-ig"},
      {"--grad-drop", method == AttributionMethod::atp, "atp"},
      {"--qk-fix", method == AttributionMethod::atp, "atp"},
      {"--steps", path, "ig or eap-ig"},
      {"--rule", path, "ig or eap-ig"},
      {"--routes", ig, "ig"},
      {"--max-crossings", ig, "ig"},
      {"--final-norm", !ig, "atp, eap, eap-ig or gain"},
      {"--top", edges, "eap or eap-ig"}};
  for (const auto& [flag, used, methods] : allowed)
    if (!used && app.count(flag) > 0)
      throw UsageError(flag, std::string("expected --method ") + methods + " beside it, found " +
                                 std::string(attribution_method_name(method)));
}

InPlace in_place_of(const AttributeFlags& flags, AttributionMethod method, const std::vector<Record>& records) {
  if (flags.instead == "pairs") return InPlace::pairs;
  if (flags.instead == "zero") return InPlace::zero;
  if (flags.instead == "mean") return InPlace::mean;
  const bool pairs = std::any_of(records.begin(), records.end(), [](const Record& record) {
    return !record.pair.empty() && (record.condition == "clean" || record.condition == "corrupt");
  });
  if (pairs) return InPlace::pairs;
  const bool path = method == AttributionMethod::ig || method == AttributionMethod::eap_ig;
  return path ? InPlace::mean : InPlace::zero;
}

NodeMeans means_of(const Session& session, const RecordJobs& made) {
  NodeMeans means;
  for (const Job& job : made.jobs) {
    if (interrupted) break;  // nothing is attributed then
    SequenceRequest request;
    request.job = &job;
    request.values = Contributions::points(session.shape);
    means.add(Contributions(session, *run_sequence(session, request).values), session.model.n_layers());
  }
  means.finish();
  return means;
}

// What decides the bytes, beside model and records.
json::Value decided_by(const AttributeFlags& flags, const AttributionRequest& request) {
  return json::Value::object()
      .set("method", flags.method)
      .set("metric", flags.metric)
      .set("instead", std::string(in_place_name(request.in_place)))
      .set("reference", request.reference)
      .set("keep_all", flags.keep_all)
      .set("grad_drop", flags.grad_drop)
      .set("qk_fix", flags.qk_fix)
      .set("steps", flags.steps)
      .set("rule", flags.rule)
      .set("routes", flags.routes)
      .set("final_norm", flags.final_norm)
      .set("top", flags.top);
}

std::string number_text(double x) { return std::isnan(x) ? "" : format_value(x, 4); }

void print_totals(const AttributionResult& result, const AttributionRequest& request, bool quiet) {
  const bool gain = request.method == AttributionMethod::gain;
  TextTable table({{"layer"}, {"point", false, true}, {"unit", false, true}, {"signed"}, {"absolute"}, {"flips"}});
  for (size_t i = 0; i < std::min(shown_totals, result.totals.size()); ++i) {
    const AttributionTotal& total = result.totals[i];
    table.add({total.layer < 0 ? "" : std::to_string(total.layer), total.point, total.unit,
               number_text(total.signed_mean), number_text(total.absolute_mean), number_text(total.flip_share)});
  }
  write_stdout(table.text(terminal_width(1)));
  if (quiet) return;
  if (request.method == AttributionMethod::ig) {
    std::fprintf(stderr,
                 "change %s = integral %s + jumps %s + rest %s (means over %ld records, %ld crossings); without the "
                 "jumps %s would be missing\n",
                 number_text(result.change).c_str(), number_text(result.integral).c_str(),
                 number_text(result.jumps).c_str(), number_text(result.rest).c_str(), static_cast<long>(result.records),
                 static_cast<long>(result.crossings), number_text(result.missed_without_jumps).c_str());
  }
  if (result.dropped_edges > 0)
    std::fprintf(stderr, "%ld edges left out by --top\n", static_cast<long>(result.dropped_edges));
  std::fprintf(stderr, "%s: %ld rows of %ld records%s%s\n", (request.dir / "attribution.csv").c_str(),
               static_cast<long>(result.rows), static_cast<long>(result.records),
               gain ? "; gains of experts that were not chosen are in it" : "; in a part's place: ",
               gain ? "" : std::string(in_place_name(request.in_place)).c_str());
}

int run_attribute(const CLI::App& app, AttributeFlags& flags, int argc, char** argv) {
  CommonOptions& options = flags.common;
  AttributionRequest request;
  request.method = parse_attribution_method(flags.method, "--method");
  request.metric = parse_metric(flags.metric, "--metric");
  request.dir = options.trace;
  refuse_idle_flags(app, request.method);
  request.drops = flags.grad_drop;
  request.query_keys = flags.qk_fix;
  request.steps = flags.steps;
  request.rule = flags.rule == "left" ? PathRule::left : PathRule::midpoint;
  request.holds_routes = flags.routes == "held";
  request.holds_final_divisor = flags.final_norm == "held";
  request.most_crossings = flags.max_crossings;
  request.top = flags.top;
  require_own_directory(request.dir, kept_work_names(attribution_files(AttributionMethod::ig)), "an attribution");
  std::vector<Record> records = read_records(flags.input);
  request.in_place = in_place_of(flags, request.method, records);
  // Never by itself: other records of the means would change what is asked.
  if (!flags.reference.empty() && request.in_place != InPlace::mean)
    throw UsageError(
        "--reference",
        "expected --instead mean beside it, found " +
            (flags.instead.empty() ? "none, which is " + std::string(in_place_name(request.in_place)) + " here"
                                   : flags.instead));
  if (flags.keep_all && request.in_place != InPlace::pairs)
    throw UsageError("--keep-all", "expected pairs, found --instead " + std::string(in_place_name(request.in_place)));
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, attribution_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  if (request.method == AttributionMethod::gain) request.in_place = InPlace::zero;  // nothing is put in a place
  std::vector<CausalPair> pairs;
  if (request.in_place == InPlace::pairs) pairs = causal_pairs(request.metric, run.records, run.made, session.encode);
  check_attribution(session, run.records, run.made, request, pairs);
  std::optional<std::vector<Record>> reference;
  if (!flags.reference.empty()) reference = read_records(flags.reference);
  if (request.in_place == InPlace::mean) request.reference = records_hash(reference ? *reference : run.records);
  JobsOfCommand work;
  work.schema = attribution_schema;
  work.work.set("attribution", decided_by(flags, request));
  request.manifest = manifest_of_work(options, session, run, work, argc, argv);
  catch_signals();
  request.interrupted = &interrupted;
  request.on_kept = tell_kept(options);
  std::optional<NodeMeans> means;
  if (request.method == AttributionMethod::gain) {
    request.in_place = InPlace::zero;  // nothing is put in a place
  } else if (request.in_place == InPlace::pairs) {
    request.pairs = select_pairs(session, run.made, causal_pairs(request.metric, run.records, run.made, session.encode),
                                 flags.keep_all, flags.input, &interrupted);
    if (request.pairs.interrupted) {
      std::fprintf(stderr, "interrupted: nothing is left; the same command begins anew\n");
      return 3;
    }
    tell_warning(dropped_pairs_text(request.pairs));
  } else if (request.in_place == InPlace::mean) {
    means = means_of(session, reference ? make_jobs(session, *reference, Generate{}, nullptr) : run.made);
    request.means = &*means;
  }
  Progress progress("attributing", attribution_records(run.made, request), options.quiet, "records");
  request.on_progress = [&](int64_t done) { progress.update(done); };
  const AttributionResult result = attribute(session, run.records, run.made, request);
  progress.done();
  if (result.interrupted) return tell_interrupted(options);
  if (!options.json) {
    print_totals(result, request, options.quiet);
    return 0;
  }
  for (const AttributionTotal& total : result.totals) {
    json::Value line = json::Value::object();
    line.set("layer", total.layer < 0 ? json::Value() : json::Value(int64_t{total.layer}))
        .set("point", total.point)
        .set("unit", total.unit)
        .set("records", total.records)
        .set("signed", total.signed_mean)
        .set("absolute", total.absolute_mean)
        .set("cells", total.cells_mean)
        .set("flip_share", std::isnan(total.flip_share) ? json::Value() : json::Value(total.flip_share));
    write_stdout(json::dump(line) + "\n");
  }
  return 0;
}

}  // namespace

Subcommand add_causal_attribute(CLI::App& app) {
  auto flags = std::make_shared<AttributeFlags>();
  CLI::App* added = add_attribute_flags(app, *flags);
  return {added, [added, flags](int argc, char** argv) { return run_attribute(*added, *flags, argc, argv); }};
}

}  // namespace signalbox::tools
