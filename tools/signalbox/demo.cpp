// signalbox demo: the main job in one go, on the built-in model: ask, trace, rank experts, switch them off, misroute,
// and look at what that did beside random controls.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "eval/detect/risk_difference.h"
#include "eval/detect/selection.h"
#include "eval/report/demo_report.h"
#include "eval/score/answers.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/output.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/progress.h"
#include "tools/signalbox/signals.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

// A kind of question and how its answers count.
struct Kind {
  const char* file;
  const char* column;
  bool (*right)(const std::string& text, const Record& record);
};

bool answer_right(const std::string& text, const Record& record) { return exact_match(text, record.answers); }
bool says_unknown(const std::string& text, const Record&) { return abstained(text); }
bool says_no(const std::string& text, const Record&) { return refused(text); }

const Kind kinds[] = {
    {"memory.jsonl", "memory: right", answer_right},
    {"grounded.jsonl", "document: right", answer_right},
    {"contradiction.jsonl", "follows document", answer_right},
    {"abstain.jsonl", "abstains when it should", says_unknown},
    {"refuse.jsonl", "refuses when it should", says_no},
    {"ordinary.jsonl", "helps: right", answer_right},
};

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  out.flush();
  if (!out) throw Error(file.string(), "cannot write the file");
}

// {"3": [5, 17], ...} for an edit.
json::Value experts_value(const std::vector<RiskDifference>& chosen) {
  std::map<int32_t, std::set<int32_t>> by_layer;
  for (const RiskDifference& row : chosen) by_layer[row.layer].insert(row.expert);
  json::Value out = json::Value::object();
  for (const auto& [layer, experts] : by_layer) {
    json::Value list = json::Value::array();
    for (int32_t e : experts) list.push_back(int64_t{e});
    out.set(std::to_string(layer), std::move(list));
  }
  return out;
}

json::Value ban_spec(const std::vector<RiskDifference>& chosen) {
  json::Value edit = json::Value::object();
  edit.set("op", "deactivate").set("mode", "ban").set("experts", experts_value(chosen));
  return json::Value::object().set("edits", json::Value::array().push_back(edit));
}

// As many experts as `like` has in each layer, drawn from the others.
std::vector<RiskDifference> random_like(const std::vector<RiskDifference>& like, const ModelShape& shape,
                                        std::mt19937_64& generator) {
  std::map<int32_t, int> wanted;
  std::set<std::pair<int32_t, int32_t>> taken;
  for (const RiskDifference& row : like) {
    ++wanted[row.layer];
    taken.insert({row.layer, row.expert});
  }
  std::vector<RiskDifference> chosen;
  for (auto [layer, count] : wanted) {
    std::vector<int32_t> pool;
    for (int32_t e = 0; e < shape.layers[layer].n_experts; ++e)
      if (!taken.contains({layer, e})) pool.push_back(e);
    for (; count > 0 && !pool.empty(); --count) {
      const size_t i = generator() % pool.size();
      chosen.push_back({layer, pool[i], 0, 0, 0, 0});
      pool.erase(pool.begin() + static_cast<int64_t>(i));
    }
  }
  return chosen;
}

struct Intervention {
  std::string name, description;
  std::shared_ptr<const EditPlan> plan;  // null: baseline
  std::vector<size_t> part_of = {};      // random controls are averaged into one row
};

class Demo {
 public:
  Demo(Session& model, const CommonOptions& options, fs::path data, fs::path out, size_t n_questions, size_t n_experts)
      : model_(model),
        options_(options),
        data_(std::move(data)),
        out_(std::move(out)),
        n_(n_questions),
        n_experts_(n_experts) {
    setup_ = model.encode;
    if (!setup_.tokenizer || !setup_.chat_template)
      throw Error(options.model, "expected a model with a tokenizer and a chat template, found one without");
  }

  int run() {
    std::error_code code;
    fs::create_directories(out_, code);
    if (code) throw Error(out_.string(), "cannot make the directory: " + code.message());
    load_questions();
    if (!ask_some()) return 3;
    if (!rank_experts()) return 3;
    if (!intervene()) return 3;
    print_table();
    write_report();
    return 0;
  }

 private:
  void say(const std::string& text) {
    write_stdout(text);
    std::fflush(stdout);
  }

  // Test halves only: the experts are chosen on the detection half of other records.
  void load_questions() {
    for (const Kind& kind : kinds) {
      std::vector<Record> all = read_records((data_ / kind.file).string()), kept;
      for (Record& record : all)
        if (record.split == "test" && kept.size() < n_) kept.push_back(std::move(record));
      if (kept.empty()) throw Error((data_ / kind.file).string(), "expected records of split \"test\", found none");
      questions_.push_back(std::move(kept));
    }
  }

  Job job_for(const Record& record, const std::vector<std::string>& names, std::shared_ptr<const EditPlan> plan,
              int64_t max_new) {
    EncodedRecord encoded = encode_record(record, setup_, names);
    Job job;
    job.index = 0;
    job.prompt = encoded.prompt;
    job.task = Generate{max_new, {}};
    job.plan = std::move(plan);
    job.spans = encoded.spans;
    return job;
  }

  // Texts in the order of the jobs; empty when interrupted.
  std::optional<std::vector<std::string>> texts(std::vector<Job> jobs, const std::string& what) {
    for (size_t i = 0; i < jobs.size(); ++i) jobs[i].index = static_cast<int64_t>(i);
    std::vector<std::string> out(jobs.size());
    int64_t total = 0;
    for (const Job& job : jobs) total += job.max_positions();
    Progress progress(what, total, options_.quiet);
    RunEvents events;
    events.on_progress = [&](int64_t done) { progress.update(done); };
    events.on_done = [&](Result result) { out[result.index] = std::move(result.text); };
    SamplingOptions sampling;
    if (!model_.run(jobs, run_options(model_, sampling), events, nullptr)) return std::nullopt;
    return out;
  }

  static std::string content(const Record& record) { return record.messages.items().back().find("content")->string(); }

  bool ask_some() {
    say("1. Asking the model\n\n");
    std::vector<Job> jobs;
    std::vector<const Record*> asked;
    for (size_t k : {0, 1, 3, 4}) {
      asked.push_back(&questions_[k].front());
      jobs.push_back(job_for(*asked.back(), {}, nullptr, 48));
    }
    auto answers = texts(std::move(jobs), "asking");
    if (!answers) return false;
    for (size_t i = 0; i < asked.size(); ++i) say("   " + content(*asked[i]) + "\n   ->" + (*answers)[i] + "\n\n");
    return true;
  }

  bool rank_experts() {
    say("2. Tracing questions with and without a document, ranking experts by risk difference\n\n");
    std::vector<Record> records;
    for (Record& record : read_records((data_ / "pairs.jsonl").string()))
      if (record.split == "detect") records.push_back(std::move(record));
    const std::vector<std::string> names = span_names(records);
    std::vector<Job> jobs;
    std::vector<std::string> ids;
    int64_t total = 0;
    for (const Record& record : records) {
      jobs.push_back(job_for(record, names, nullptr, 0));
      jobs.back().index = static_cast<int64_t>(jobs.size()) - 1;
      total += static_cast<int64_t>(jobs.back().prompt->tokens.size());
      ids.push_back(record.id);
    }
    CommonOptions trace_options = options_;
    trace_options.trace = (out_ / "trace").string();
    PreparedRun described;
    described.made.span_names = names;
    auto trace = open_trace(trace_options, model_, described);
    Progress progress("tracing", total, options_.quiet);
    RunEvents events;
    events.on_progress = [&](int64_t done) { progress.update(done); };
    SamplingOptions sampling;
    if (!model_.run(jobs, run_options(model_, sampling), events, trace.get())) return false;
    trace->finish(ids, [&](int64_t i) { return records[i].source; });
    progress.done();

    ContrastOptions contrast;
    contrast.a = "without_document";
    contrast.b = "with_document";
    contrast.span = "question";
    contrast.seed = options_.seed;
    contrast.threads = options_.threads;
    differences_ = detect(TraceSet({out_ / "trace"}), contrast).rows;
    banned_ = top_experts(differences_, n_experts_, +1);
    write_rd_csv(out_ / "rd.csv", differences_);
    char line[160];
    say("   layer  expert   without   with    difference   95 % interval          q\n");
    for (const RiskDifference& row : banned_) {
      std::snprintf(line, sizeof line, "   %5d  %6d  %6.1f %%  %5.1f %%   %+6.1f points  %+6.1f to %+6.1f  %.2g\n",
                    row.layer, row.expert, 100.0 * static_cast<double>(row.a1) / static_cast<double>(row.a1 + row.d1),
                    100.0 * static_cast<double>(row.a2) / static_cast<double>(row.a2 + row.d2), 100 * row.value(),
                    100 * row.ci.lo, 100 * row.ci.hi, row.q);
      say(line);
    }
    say("\n");
    return true;
  }

  std::shared_ptr<const EditPlan> plan_of(const std::string& name, const json::Value& spec) {
    const fs::path file = out_ / "edits" / (name + ".json");
    fs::create_directories(file.parent_path());
    write_text(file, json::dump(spec, 2) + "\n");
    return EditPlan::load(file, model_.shape, options_.seed);
  }

  bool intervene() {
    const std::string n = std::to_string(banned_.size());
    say("3. Switching them off, and as many random ones; sending tokens elsewhere\n\n");
    std::vector<Intervention> all;
    all.push_back({"baseline", "no edit", nullptr});
    all.push_back({"banned", n + " experts used most without a document", plan_of("banned", ban_spec(banned_))});
    std::mt19937_64 generator(options_.seed + 1);
    for (int i = 0; i < 3; ++i)
      all.push_back({"random-" + std::to_string(i), n + " other experts of the same layers, drawn at random",
                     plan_of("random-" + std::to_string(i), ban_spec(random_like(banned_, model_.shape, generator)))});
    auto misroute = [&](const char* policy, const char* phase) {
      json::Value edit = json::Value::object();
      edit.set("op", "misroute").set("policy", policy);
      edit.set("tokens", json::Value::object().set("phase", phase));
      return json::Value::object().set("edits", json::Value::array().push_back(edit));
    };
    all.push_back({"next best", "answer tokens go to the experts ranked k+1 to 2k",
                   plan_of("next-best", misroute("next_best", "generated"))});
    all.push_back({"random route", "answer tokens go to experts drawn at random",
                   plan_of("random-route", misroute("random", "generated"))});

    std::vector<Job> jobs;
    for (const Intervention& intervention : all) {
      for (const auto& records : questions_)
        for (const Record& record : records) jobs.push_back(job_for(record, {}, intervention.plan, 48));
    }
    auto answers = texts(std::move(jobs), "answering");
    if (!answers) return false;

    size_t next = 0;
    std::string lines;
    for (const Intervention& intervention : all) {
      ReportRow row{intervention.name, intervention.description, {}};
      for (size_t k = 0; k < questions_.size(); ++k) {
        int64_t right = 0;
        for (size_t i = 0; i < questions_[k].size(); ++i, ++next) {
          const Record& record = questions_[k][i];
          const std::string& text = (*answers)[next];
          const bool good = kinds[k].right(text, record);
          right += good;
          json::Value line = json::Value::object();
          line.set("intervention", intervention.name).set("id", record.id).set("text", text).set("counts", good);
          lines += json::dump(line) + "\n";
          if (k == 0 && i < 6 && intervention.name == "baseline")
            report_.examples.push_back({content(record), text, ""});
          if (k == 0 && i < 6 && intervention.name == "banned") report_.examples[i].edited = text;
        }
        row.rates.push_back(100.0 * static_cast<double>(right) / static_cast<double>(questions_[k].size()));
      }
      report_.rows.push_back(std::move(row));
    }
    write_text(out_ / "samples.jsonl", lines);
    return true;
  }

  void print_table() {
    // The random controls as one row: their mean.
    std::vector<ReportRow> rows;
    ReportRow mean{"random control", "mean of 3 draws: " + report_.rows[2].description, {}};
    for (size_t k = 0; k < std::size(kinds); ++k)
      mean.rates.push_back((report_.rows[2].rates[k] + report_.rows[3].rates[k] + report_.rows[4].rates[k]) / 3);
    rows = {report_.rows[0], report_.rows[1], mean, report_.rows[5], report_.rows[6]};
    const auto cell = [](const std::string& content) {
      return std::string(content.size() < 16 ? 16 - content.size() : 1, ' ') + content;
    };
    std::string text = "   " + std::string(24, ' ');
    for (const ReportRow& row : rows) text += cell(row.name);
    text += "\n";
    for (size_t k = 0; k < std::size(kinds); ++k) {
      const std::string column = kinds[k].column;
      text += "   " + column + std::string(column.size() < 24 ? 24 - column.size() : 1, ' ');
      for (const ReportRow& row : rows) {
        char number[24];
        std::snprintf(number, sizeof number, "%.1f %%", row.rates[k]);
        text += cell(number);
      }
      text += "\n";
    }
    say(text + "\n");
    json::Value table = json::Value::array();
    for (const ReportRow& row : report_.rows) {
      json::Value line = json::Value::object(), rates = json::Value::object();
      for (size_t k = 0; k < std::size(kinds); ++k) rates.set(kinds[k].column, row.rates[k]);
      line.set("intervention", row.name).set("description", row.description).set("percent", std::move(rates));
      table.push_back(line);
    }
    write_text(out_ / "table.json", json::dump(table, 2) + "\n");
    report_.rows = std::move(rows);
  }

  void write_report() {
    report_.model = model_.path;
    for (size_t k = 0; k < std::size(kinds); ++k) {
      report_.columns.push_back(kinds[k].column);
      report_.counts.push_back(static_cast<int64_t>(questions_[k].size()));
    }
    report_.differences = differences_;
    report_.banned = banned_;
    write_text(out_ / "report.html", render_demo_report(report_));
    say("Report:      " + (out_ / "report.html").string() + "\nTable:       " + (out_ / "table.json").string() +
        "\nAnswers:     " + (out_ / "samples.jsonl").string() + "\nTrace:       " + (out_ / "trace").string() +
        "\nRanking:     " + (out_ / "rd.csv").string() + "\nEdit specs:  " + (out_ / "edits").string() + "\n");
  }

  Session& model_;
  const CommonOptions& options_;
  const fs::path data_, out_;
  const size_t n_, n_experts_;
  EncodeSetup setup_;
  std::vector<std::vector<Record>> questions_;  // by kind
  std::vector<RiskDifference> differences_, banned_;
  DemoReport report_;
};

}  // namespace

int demo_command(int argc, char** argv) {
  CLI::App app("A first experiment: which experts does memory use, and what happens when they are switched off?",
               "signalbox demo");
  app.footer("Example:\n  signalbox demo --data tools/builtin/heldout --out out/demo");
  CommonOptions options;
  options.model = "builtin";
  options.batch = 16;
  std::string data = "tools/builtin/heldout", out = "out/demo";
  size_t questions = 100, experts = 8;
  app.add_option("--data", data, "directory of the held-out questions")->capture_default_str();
  app.add_option("--out", out, "directory for the results")->capture_default_str();
  app.add_option("--questions", questions, "questions of each kind")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--experts", experts, "experts to switch off")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--batch", options.batch, "sequences at once")->check(CLI::Range(1, 4096))->capture_default_str();
  add_device_options(app, options);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  catch_signals();
  Session model = open_session(options);
  tell_cpu_fallback(options, *model.backend);
  return Demo(model, options, data, out, questions, experts).run();
}

}  // namespace signalbox
