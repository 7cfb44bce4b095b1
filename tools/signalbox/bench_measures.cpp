#include "tools/signalbox/bench_measures.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <sstream>
#include <utility>
#include <vector>

#include "tools/bench/agreement.h"
#include "tools/bench/timer.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

const std::vector<std::pair<std::string, std::string>> recording_modes = {
    {"ids", "*.router.ids"},
    {"ids, weights", "*.router.ids,*.router.weights"},
    {"router logits", "*.router.ids,*.router.weights,*.router.logits"},
    {"residual stream", "*.resid_out"}};

// Whether a measurement fits into the time that is left; says so where it does not.
bool fits(Figures& out, const Budget& budget, const std::string& what, double seconds) {
  stop_if_interrupted();
  if (seconds <= budget.left() && budget.left() > 0) return true;
  char why[128];
  std::snprintf(why, sizeof why, "needs about %.0f s, and %.0f s of the budget of %.0f s are left", std::ceil(seconds),
                std::max(0.0, std::floor(budget.left())), budget.seconds());
  out.left_out(what, why);
  return false;
}

double field(const json::Value& line, const char* key) { return line.find(key)->real(); }

// Experts that forwards read of a layer: counted, and as even routing would have it.
std::string experts_text(const json::Value& line) {
  if (!line.find("experts")) return "";
  char text[128];
  std::snprintf(text, sizeof text, "         experts read of a layer: %.1f of %ld (%.1f if routes were even)\n",
                field(line, "experts_read"), static_cast<long>(line.find("experts")->integer()),
                field(line, "experts_read_if_even"));
  return text;
}

void measure_prefill(Figures& out, ModelBench& bench, const ModelBenchOptions& sizes, const Budget& budget) {
  json::Value lines = json::Value::array();
  for (const int64_t n : sizes.prefill) {
    if (!fits(out, budget, "prefill of " + std::to_string(n) + " tokens", bench.prefill_seconds(n))) continue;
    json::Value line = bench.to_json(bench.prefill(n));
    out.text("prefill  %6ld tokens            %11.1f tok/s  %10.1f GFLOP/s  %3.0f %% of the limit\n",
             static_cast<long>(n), field(line, "tokens_per_second"), field(line, "gflops"),
             100 * field(line, "share_of_limit"));
    out.text("%s", experts_text(line).c_str());
    out.line("prefill", line);
    lines.push_back(std::move(line));
  }
  out.document.set("prefill", std::move(lines));
}

void measure_decode(Figures& out, ModelBench& bench, const ModelBenchOptions& sizes, const Budget& budget) {
  json::Value lines = json::Value::array();
  for (const int64_t batch : sizes.batches) {
    if (!fits(out, budget, "decode at batch " + std::to_string(batch), bench.decode_seconds(batch))) continue;
    json::Value line = bench.to_json(bench.decode(batch));
    const double share = field(line, "share_of_limit");
    out.text("decode   batch %4ld, context %5ld %9.1f tok/s  %10.2f GB/s     %3.0f %% of the limit%s\n",
             static_cast<long>(batch), static_cast<long>(line.find("context")->integer()),
             field(line, "tokens_per_second"), field(line, "gbytes_per_second"), 100 * share,
             share > 1 ? " (the model fits a cache)" : "");
    if (batch > 1) out.text("%s", experts_text(line).c_str());
    out.line("decode", line);
    lines.push_back(std::move(line));
  }
  out.document.set("decode", std::move(lines));
}

void measure_profile(Figures& out, ModelBench& bench, const BenchOptions& options, const ModelBenchOptions& sizes,
                     const Budget& budget) {
  if (!options.profile) return;
  json::Value lines = json::Value::array();
  const auto keep = [&](json::Value profile) {
    std::istringstream table(profile_text(profile));  // longer than what one call takes
    for (std::string row; std::getline(table, row);) out.text("%s\n", row.c_str());
    out.line("profile", profile);
    lines.push_back(std::move(profile));
  };
  const int64_t n = sizes.prefill.front();
  if (fits(out, budget, "profile of a prefill", bench.prefill_seconds(n))) keep(bench.profile_prefill(n));
  for (const int64_t batch : sizes.batches)
    if (fits(out, budget, "profile of decoding at batch " + std::to_string(batch), bench.decode_seconds(batch)))
      keep(bench.profile_decode(batch));
  out.text("\n");
  out.document.set("profile", std::move(lines));
}

// What --numerics fast of the CPU does to results. On a GPU everything is bf16, in both modes.
void measure_agreement(Figures& out, Session& session, const BenchOptions& options, const Budget& budget,
                       ModelBench& bench) {
  constexpr int64_t n_tokens = 64;
  if (options.numerics != "fast" || !session.backend->shares_host_memory()) return;
  if (!fits(out, budget, "agreement with the reference", 3 * bench.prefill_seconds(n_tokens))) return;
  const auto reference = make_cpu_backend({options.threads, "auto"});
  json::Value line = agreement_with(session, *reference, n_tokens);
  out.text("%s", agreement_text(line).c_str());
  out.line("agreement", line);
  out.document.set("agreement", std::move(line));
}

void measure_routed(Figures& out, ModelBench& bench, const BenchOptions& options, const ModelBenchOptions& sizes,
                    const Budget& budget) {
  json::Value lines = json::Value::array();
  if (sizes.routed_tokens_most > 0) {
    if (options.quick)
      out.left_out("MoE layer", "--quick");
    else if (fits(out, budget, "MoE layer", 5))
      lines = bench.routed();
  }
  for (const json::Value& line : lines.items()) {
    out.text("MoE layer %5ld tokens  %22.1f us     %10.1f GFLOP/s  %3.0f %% of the limit\n",
             static_cast<long>(line.find("tokens")->integer()), 1e6 * field(line, "seconds"), field(line, "gflops"),
             100 * field(line, "share_of_limit"));
    out.line("moe_layer", line);
  }
  out.document.set("moe_layer", std::move(lines));
}

// One place where recording costs: a prefill, or decoding at a batch.
struct RecordedPhase {
  std::string name, key;  // "decode at batch 8"; "batch_decode" of batch_decode_cost
  int64_t tokens = 0, batch = 0;
  double seconds = 0;        // one step without recording, about
  double seconds_first = 0;  // before the first step
  std::function<PairedCosts(const std::function<bool(int64_t, double)>&)> measure;
  PairedCosts costs;
};

constexpr double recording_seconds = 20;  // of a phase, unless its first rounds take longer
constexpr int64_t least_rounds = 3, rounds_per_repeat = 10;

// Adds KEY_cost, KEY_ci and KEY_rounds of one way of recording; null where it was not measured.
void set_cost(json::Value& line, const std::string& key, const PairedCosts& costs, size_t mode) {
  json::Value cost, interval;
  if (costs.rounds > 0) cost = costs.ways[mode].cost;
  if (costs.rounds > 1) {
    interval = json::Value::array();
    interval.push_back(costs.ways[mode].lo).push_back(costs.ways[mode].hi);
  }
  line.set(key + "_cost", std::move(cost)).set(key + "_ci", std::move(interval)).set(key + "_rounds", costs.rounds);
}

void print_phase(const Figures& out, const RecordedPhase& phase) {
  for (size_t m = 0; m < phase.costs.ways.size(); ++m) {
    const PairedCost& way = phase.costs.ways[m];
    char interval[64] = "one round";
    if (phase.costs.rounds > 1)
      std::snprintf(interval, sizeof interval, "95 %% CI %+.1f to %+.1f, %ld rounds", 100 * way.lo, 100 * way.hi,
                    static_cast<long>(phase.costs.rounds));
    out.text("recording %-17s in %-22s %+7.1f %% (%s)\n", recording_modes[m].first.c_str(), phase.name.c_str(),
             100 * way.cost, interval);
    json::Value line = json::Value::object();
    line.set("mode", recording_modes[m].first).set("points", recording_modes[m].second).set("in", phase.name);
    if (phase.tokens > 0) line.set("prefill_tokens", phase.tokens);
    if (phase.batch > 0) line.set("batch", phase.batch);
    set_cost(line, phase.key, phase.costs, m);
    out.line("recording", line);
  }
}

void measure_recording(Figures& out, ModelBench& bench, const BenchOptions& options, const ModelBenchOptions& sizes,
                       const Budget& budget) {
  std::vector<std::string> points;
  for (const auto& mode : recording_modes) points.push_back(mode.second);
  const int64_t n_prompt = sizes.prefill.front(), most = sizes.batches.back();
  std::vector<RecordedPhase> phases;
  const auto add_decode = [&](int64_t batch, const std::string& key) {
    RecordedPhase phase{"decode at batch " + std::to_string(batch), key, 0, batch, 0, 0, {}, {}};
    for (const json::Value& line : out.document.find("decode")->items())
      if (line.find("batch")->integer() == batch) phase.seconds = field(line, "seconds_per_step");
    phase.seconds_first = bench.prefill_seconds(batch * sizes.context);
    phase.measure = [&bench, &points, batch](const auto& go_on) { return bench.recorded_decode(batch, points, go_on); };
    phases.push_back(std::move(phase));
  };
  add_decode(1, "decode");
  if (most > 1) add_decode(most, "batch_decode");
  RecordedPhase phase{"prefill of " + std::to_string(n_prompt), "prefill", n_prompt, 0,
                      bench.prefill_seconds(n_prompt),          0,         {},       {}};
  phase.measure = [&](const auto& go_on) { return bench.recorded_prefill(n_prompt, points, go_on); };
  phases.push_back(std::move(phase));

  bool stopped = false;
  try {
    for (RecordedPhase& of : phases) {
      const std::string what = "cost of recording in " + of.name;
      if (options.quick) {
        out.left_out(what, "--quick");
        continue;
      }
      const double round = (static_cast<double>(points.size()) + 1) * of.seconds;
      if (!fits(out, budget, what, of.seconds_first + of.seconds + 2 * round)) continue;
      const double start = now();
      const int64_t most_rounds = rounds_per_repeat * sizes.repeats;
      of.costs = of.measure([&](int64_t rounds, double last) {
        stop_if_interrupted();
        if (rounds >= most_rounds || last > budget.left()) return false;
        return rounds < least_rounds || now() - start + last <= recording_seconds;
      });
      if (of.costs.rounds == 0)
        fits(out, budget, what, round);
      else
        print_phase(out, of);
    }
  } catch (const Interrupted&) {
    stopped = true;  // rounds that were made count
  }
  json::Value lines = json::Value::array();
  for (size_t m = 0; m < points.size(); ++m) {
    json::Value line = json::Value::object();
    line.set("mode", recording_modes[m].first).set("points", points[m]).set("prefill_tokens", n_prompt);
    for (const RecordedPhase& of : phases) set_cost(line, of.key, of.costs, m);
    if (most == 1) set_cost(line, "batch_decode", phases.front().costs, m);
    lines.push_back(std::move(line.set("batch", most)));
  }
  out.document.set("recording", std::move(lines));
  if (stopped) throw Interrupted{};
}

void measure_trace_memory(Figures& out, ModelBench& bench, const BenchOptions& options, const Budget& budget) {
  if (options.trace_tokens == 0 || !fits(out, budget, "memory of a trace", bench.prefill_seconds(options.trace_tokens)))
    return;
  json::Value memory = bench.trace_memory(options.trace_tokens);
  const json::Value* growth = memory.find("peak_growth_bytes");
  const std::string grown = growth->is_null()
                                ? "unknown (the system does not let the peak be reset)"
                                : "+" + std::to_string(growth->integer() / 1000000) + " MB above the model";
  out.text("\ntrace of %ld tokens: %.1f MB on disk, peak memory %s\n",
           static_cast<long>(memory.find("tokens")->integer()), memory.find("file_bytes")->real() * 1e-6,
           grown.c_str());
  out.line("trace_memory", memory);
  out.document.set("trace_memory", std::move(memory));
}

void measure_gradient(Figures& out, ModelBench& bench, const BenchOptions& options, const ModelBenchOptions& sizes,
                      const Budget& budget) {
  const int64_t n = sizes.prefill.front();
  if (!options.gradient || !fits(out, budget, "a gradient", 8 * bench.prefill_seconds(n))) return;
  json::Value line = bench.gradient(n);
  out.text("%s", gradient_text(line).c_str());
  out.line("gradient", line);
  out.document.set("gradient", std::move(line));
}

// What the model does comes first, what watching it costs after it.
void measure_model(Figures& out, Session& session, ModelBench& bench, const BenchOptions& options,
                   const ModelBenchOptions& sizes, const Budget& budget) {
  const bool routers = !session.model.moe_layers().empty();
  measure_prefill(out, bench, sizes, budget);
  measure_decode(out, bench, sizes, budget);
  measure_profile(out, bench, options, sizes, budget);
  measure_agreement(out, session, options, budget, bench);
  measure_routed(out, bench, options, sizes, budget);
  if (routers)
    measure_recording(out, bench, options, sizes, budget);
  else
    out.document.set("recording", json::Value::array());
  measure_trace_memory(out, bench, options, budget);
  measure_gradient(out, bench, options, sizes, budget);
}

}  // namespace

bool measure_until_interrupted(Figures& out, Session& session, ModelBench& bench, const BenchOptions& options,
                               const ModelBenchOptions& sizes, const Budget& budget) {
  try {
    measure_model(out, session, bench, options, sizes, budget);
    return true;
  } catch (const Interrupted&) {
    for (const char* list : {"prefill", "decode", "moe_layer", "recording"})
      if (!out.document.find(list)) out.document.set(list, json::Value::array());
    out.document.set("interrupted", true);
    out.text("\ninterrupted: the lines above are all that was measured\n");
    return false;
  }
}

}  // namespace signalbox::tools
