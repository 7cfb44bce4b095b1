// signalbox faithfulness: does the answer follow from the explanation that the model wrote?
#include <xxhash.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/files.h"
#include "eval/faithfulness/findings.h"
#include "eval/faithfulness/study.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/common.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

// Explanations whose routes are compared in one go: bounds what is kept in memory.
constexpr size_t route_block = 64;

std::string hash_of_input(const std::vector<Record>& records) {
  std::string lines;
  for (const Record& record : records) lines += json::dump(record.source) + "\n";
  return hex64(XXH3_64bits(lines.data(), lines.size()));
}

json::Value list_of(const std::vector<std::string>& items) {
  json::Value out = json::Value::array();
  for (const std::string& item : items) out.push_back(item);
  return out;
}

// Everything that decides what the stages give.
json::Value settings_of(const CommonOptions& common, const OpenedModel& model, const FaithfulnessOptions& options,
                        const std::vector<std::string>& tests, const json::Value& edits, const std::string& input) {
  json::Value fractions = json::Value::array();
  for (double fraction : options.fractions) fractions.push_back(fraction);
  return json::Value::object()
      .set("schema", "signalbox.faithfulness/1")
      .set("signalbox_version", SIGNALBOX_VERSION)
      .set("model_hash", model.loaded.model_hash)
      .set("tokenizer_hash", model.tokenizer ? model.tokenizer->hash() : "")
      .set("template_hash", model.chat_template ? model.chat_template->hash() : "")
      .set("input_hash", input)
      .set("edits", edits)
      .set("numerics", common.numerics)
      .set("isa", model.backend->isa())
      .set("device", model.backend->name())
      .set("special", common.special)
      .set("template_variables", common.template_variables)
      .set("date", common.date)
      .set("seed", options.seed)
      .set("marker", options.marker)
      .set("force_marker", options.force_marker)
      .set("suffix", options.suffix)
      .set("max_tokens", options.max_tokens)
      .set("answer_tokens", options.answer_tokens)
      .set("samples", options.samples)
      .set("temperature", static_cast<double>(static_cast<float>(options.sampling.temperature)))
      .set("top_p", static_cast<double>(static_cast<float>(options.sampling.top_p)))
      .set("top_k", int64_t{options.sampling.top_k})
      .set("tests", list_of(tests))
      .set("filler", options.filler)
      .set("policies", list_of(options.policies))
      .set("fractions", std::move(fractions))
      .set("routes", options.routes);
}

std::string shown(const json::Value* value) {
  const std::string text = value ? json::dump(*value) : "nothing";
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

// The earlier run's settings must be these; written where there are none yet.
void settle(const fs::path& dir, const json::Value& settings) {
  std::error_code code;
  fs::create_directories(dir / "stages", code);
  if (code) throw Error(dir.string(), "cannot make the directory: " + code.message());
  const fs::path file = dir / "settings.json";
  if (!fs::exists(file)) {
    write_file_atomically(file, json::dump(settings, 2) + "\n");
    return;
  }
  const json::Value earlier = json::parse_file(file);
  std::string differences;
  for (const auto& [key, value] : settings.members()) {
    const json::Value* was = earlier.find(key);
    if (was && *was == value) continue;
    differences += (differences.empty() ? "" : "; ") + key + ": was " + shown(was) + ", now " + shown(&value);
  }
  if (!differences.empty())
    throw Error(file.string(), "expected the settings that the directory was begun with, found " + differences);
}

json::Value written_line(const Written& written) {
  json::Value tokens = json::Value::array();
  for (int32_t token : written.tokens) tokens.push_back(int64_t{token});
  return json::Value::object()
      .set("tokens", std::move(tokens))
      .set("text", written.text)
      .set("finish_reason", written.finish_reason);
}

Written read_written(const json::Ref& line) {
  line.reject_unknown({"tokens", "text", "finish_reason"});
  Written written;
  for (const json::Ref& token : line.at("tokens").items())
    written.tokens.push_back(static_cast<int32_t>(token.integer(0, INT32_MAX)));
  written.text = line.at("text").string();
  written.finish_reason = line.at("finish_reason").string();
  return written;
}

// The lines of a stage's file; Error when it has not `n`.
std::vector<json::Value> read_stage(const fs::path& file, size_t n) {
  std::ifstream in(file, std::ios::binary);
  std::vector<json::Value> lines;
  std::string line;
  while (std::getline(in, line))
    lines.push_back(json::parse(line, file.string() + ":" + std::to_string(lines.size() + 1)));
  if (lines.size() != n)
    throw Error(file.string(), "expected " + std::to_string(n) + " lines, found " + std::to_string(lines.size()));
  return lines;
}

class Runner {
 public:
  Runner(OpenedModel& model, const CommonOptions& options, FaithfulnessStudy& study, fs::path dir)
      : model_(model), options_(options), study_(study), dir_(std::move(dir)) {}

  // False when interrupted; stages that were finished are kept.
  bool run() {
    auto outputs = stage("1-write", study_.write_jobs(), {});
    if (!outputs) return false;
    study_.set_outputs(std::move(*outputs));
    auto continued = stage("2-continue", study_.continue_jobs(), {study_.options().marker});
    if (!continued) return false;
    study_.set_continued(std::move(*continued));
    auto answers = stage("3-answer", study_.answer_jobs(), {});
    if (!answers) return false;
    study_.set_answers(std::move(*answers));
    return !study_.options().routes || compare_routes();
  }

 private:
  static int64_t tokens_of(const std::vector<Job>& jobs) {
    int64_t total = 0;
    for (const Job& job : jobs) total += job.max_positions();
    return total;
  }

  bool run_all(const std::string& name, const std::vector<Job>& jobs, const std::vector<std::string>& stop,
               std::vector<Written>* out, ProbeSink* sink) {
    Forward forward(*model_.backend, model_.loaded.model, model_.loaded.weights, study_.max_slots());
    Progress progress(name, tokens_of(jobs), options_.quiet);
    SamplingOptions sampling;
    sampling.stop = stop;
    RunEvents events;
    events.on_progress = [&](int64_t done) { progress.update(done); };
    events.on_done = [&](Result result) {
      if (out) (*out)[result.index] = {std::move(result.tokens), std::move(result.text), result.finish_reason};
    };
    return run_jobs(forward, jobs, run_options(options_, model_, sampling), events, sink);
  }

  std::optional<std::vector<Written>> stage(const std::string& name, const std::vector<Job>& jobs,
                                            const std::vector<std::string>& stop) {
    const fs::path file = dir_ / "stages" / (name + ".jsonl");
    std::vector<Written> out(jobs.size());
    if (fs::exists(file)) {
      const std::vector<json::Value> lines = read_stage(file, jobs.size());
      for (size_t i = 0; i < lines.size(); ++i)
        out[i] = read_written(json::Ref(lines[i], file.string() + ":" + std::to_string(i + 1)));
      return out;
    }
    if (!run_all(name, jobs, stop, &out, nullptr)) return std::nullopt;
    std::string text;
    for (const Written& written : out) text += json::dump(written_line(written)) + "\n";
    write_file_atomically(file, text);
    return out;
  }

  // A line a compared case: its index, and its likeness by layer.
  bool compare_routes() {
    const fs::path file = dir_ / "stages" / "4-route.jsonl";
    const size_t n = study_.explanations().size();
    const bool known = fs::exists(file);
    std::vector<json::Value> lines;
    if (known) lines = read_stage(file, study_.route_jobs(0, n).cases.size());
    std::string text;
    size_t next = 0;
    for (size_t begin = 0; begin < n; begin += route_block) {
      const FaithfulnessStudy::RouteJobs jobs = study_.route_jobs(begin, std::min(begin + route_block, n));
      if (known) {
        for (size_t c : jobs.cases) {
          const json::Ref line(lines[next], file.string() + ":" + std::to_string(next + 1));
          if (line.at("case").size() != static_cast<int64_t>(c)) line.fail("expected case " + std::to_string(c));
          std::vector<RouteLikeness> likeness;
          for (const json::Ref& layer : line.at("layers").items())
            likeness.push_back({layer[0].number(), layer[1].number()});
          study_.set_likeness(c, std::move(likeness));
          ++next;
        }
        continue;
      }
      LastRoutes routes(model_.shape, jobs.first_row, jobs.n_rows);
      if (!run_all("4-route " + std::to_string(begin) + " of " + std::to_string(n), jobs.jobs, {}, nullptr, &routes))
        return false;
      study_.set_routes(jobs, routes);
      for (size_t c : jobs.cases) {
        json::Value layers = json::Value::array();
        for (const RouteLikeness& layer : study_.cases()[c].likeness)
          layers.push_back(json::Value::array().push_back(layer.jaccard).push_back(layer.weighted));
        text +=
            json::dump(json::Value::object().set("case", static_cast<int64_t>(c)).set("layers", std::move(layers))) +
            "\n";
      }
    }
    if (!known) write_file_atomically(file, text);
    return true;
  }

  OpenedModel& model_;
  const CommonOptions& options_;
  FaithfulnessStudy& study_;
  const fs::path dir_;
};

void choose_tests(const std::vector<std::string>& tests, FaithfulnessOptions& options) {
  auto has = [&](const char* name) { return std::find(tests.begin(), tests.end(), name) != tests.end(); };
  options.early = has("early");
  options.mistakes = has("mistakes");
  options.paraphrases = has("paraphrases");
  options.fillers = has("filler");
  if (!has("misroute")) options.policies.clear();
}

// The array of an edit spec; null without one.
json::Value read_edits(const std::string& file) {
  if (file.empty()) return {};
  const json::Value spec = json::parse_file(file);
  const json::Ref root(spec, file);
  root.reject_unknown({"edits"});
  return root.at("edits").value();
}

}  // namespace

int faithfulness_command(int argc, char** argv) {
  CLI::App app(
      "Does the answer follow from the explanation that the model wrote? Early answering, added mistakes, paraphrases, "
      "filler, and misrouted explanations (docs/faithfulness.md).",
      "signalbox faithfulness");
  app.footer(
      "Example:\n  head -20 tools/builtin/heldout/two_hop_steps.jsonl > /tmp/steps.jsonl\n  signalbox faithfulness "
      "builtin --input /tmp/steps.jsonl --max-tokens 64 --out /tmp/faithfulness");
  CommonOptions common;
  FaithfulnessOptions options;
  std::string input, out;
  std::vector<std::string> tests = {"early", "mistakes", "paraphrases", "filler", "misroute"};
  bool no_routes = false;
  add_run_options(app, common);
  app.add_option("--input", input, "records that ask for steps (or see --suffix); - = standard input")->required();
  app.add_option("--out", out, "directory for the results; the same command goes on in it")->required();
  app.add_option("--suffix", options.suffix, "text behind each question, such as \" Think step by step.\"");
  app.add_option("--marker", options.marker, "what stands between explanation and answer")->capture_default_str();
  app.add_flag("--force-marker", options.force_marker,
               "where the output lacks the marker, put it behind the whole output");
  app.add_option("--max-tokens", options.max_tokens, "tokens of explanation and answer at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--answer-tokens", options.answer_tokens, "tokens of an answer that is asked for again, at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--samples", options.samples, "explanations of each record")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--temperature", options.sampling.temperature, "of explanations; 0 = the most probable token")
      ->check(not_nan_validator())
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p, "of explanations")
      ->check(not_nan_validator())
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--top-k", options.sampling.top_k, "of explanations; 0 = all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--tests", tests, "early, mistakes, paraphrases, filler, misroute (all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"early", "mistakes", "paraphrases", "filler", "misroute"}));
  app.add_option("--filler", options.filler, "text that filler repeats")->capture_default_str();
  app.add_option("--policies", options.policies, "misrouting policies for the explanation's tokens (docs/edits.md)")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--fractions", options.fractions, "shares of the explanation's tokens that are misrouted")
      ->delimiter(',')
      ->check(not_nan_validator())
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_flag("--no-routes", no_routes, "do not compare routes (stage 4)");
  app.add_option("--moved-below", options.moved_below, "Jaccard below which the answer's route counts as moved")
      ->check(not_nan_validator())
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--resamples", options.resamples, "bootstrap replicates")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  choose_tests(tests, options);
  options.routes = !no_routes;
  options.seed = common.seed;
  options.sampling.seed = common.seed;
  options.threads =
      common.threads > 0 ? common.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  std::vector<Record> records = read_records(input);
  const std::string input_hash = hash_of_input(records);
  const json::Value edits = read_edits(common.edits);
  OpenedModel model = open_model(common);
  const EncodeSetup setup = encode_setup(common, model);
  FaithfulnessStudy study(std::move(records), setup, model.shape, model.loaded.model.max_positions, options, edits,
                          fs::path(common.edits).parent_path());
  const json::Value settings = settings_of(common, model, options, tests, edits, input_hash);
  settle(out, settings);
  catch_signals();
  if (!Runner(model, common, study, out).run()) return 3;
  const FaithfulnessFindings findings = faithfulness_findings(study);
  write_findings(study, findings, settings, out);
  if (common.json) {
    write_stdout(json::dump(json::parse_file(fs::path(out) / "summary.json")) + "\n");
  } else {
    write_stdout(findings_table(study, findings));
  }
  return 0;
}

}  // namespace signalbox
