// signalbox bench: speed of a model or of the kernels, beside limits measured in the same run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "base/memory.h"
#include "base/text.h"
#include "engine/device_weights.h"
#include "loaders/families/real_shapes.h"
#include "tools/bench/agreement.h"
#include "tools/bench/device_watch.h"
#include "tools/bench/figures.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/op_bench.h"
#include "tools/bench/turns.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

struct BenchOptions : CommonOptions {
  std::string shape;
  bool kernels = false;
  int64_t layers = 0, context = 0, n_prompt = 0, n_new = 0, trace_tokens = 0;
  bool batch_given = false, quick = false, gradient = false, turns = false;
  int repeats = 3;
  double budget = 0;  // seconds; 0: as long as it takes
};

MachineLimits measure_limits(const BenchOptions& options, const Backend& backend) {
  LimitOptions sizes;
  if (options.quick) sizes.seconds = 0.4;
  if (backend.shares_host_memory()) return measure_cpu_limits({options.threads, options.isa}, sizes);
  CommonOptions fast = options;  // --numerics invariant has no library's products
  fast.numerics = "fast";
  fast.device = backend.name();
  const std::unique_ptr<Backend> own = open_backend(fast);
  sizes.buffer_bytes = std::min(sizes.buffer_bytes * 4, own->free_bytes() / 4);
  return measure_device_limits(*own, sizes);
}

json::Value machine(const Backend& backend, const CommonOptions& options) {
  json::Value line = json::Value::object();
  line.set("device", backend.name())
      .set("isa", backend.isa())
      .set("threads", int64_t{backend.n_threads()})
      .set("numerics", options.numerics);
  return line;
}

void describe(const Figures& out, const std::string& what, const Backend& backend, const MachineLimits& limits) {
  out.text("%s, %s %s, %d thread%s; measured limits: %s %.1f GB/s, %s %.0f GFLOP/s\n", what.c_str(),
           backend.name().c_str(), backend.isa().c_str(), backend.n_threads(), backend.n_threads() == 1 ? "" : "s",
           limits.gbytes_measured.c_str(), limits.gbytes, limits.gflops_measured.c_str(), limits.gflops);
  if (limits.huge_pages) out.text("read from 4 KiB pages: %.1f GB/s\n", limits.small_page_gbytes);
}

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

void measure_prefill(Figures& out, ModelBench& bench, const ModelBenchOptions& sizes, const Budget& budget) {
  json::Value lines = json::Value::array();
  for (const int64_t n : sizes.prefill) {
    if (!fits(out, budget, "prefill of " + std::to_string(n) + " tokens", bench.prefill_seconds(n))) continue;
    json::Value line = bench.to_json(bench.prefill(n));
    out.text("prefill  %6ld tokens            %11.1f tok/s  %10.1f GFLOP/s  %3.0f %% of the limit\n",
             static_cast<long>(n), field(line, "tokens_per_second"), field(line, "gflops"),
             100 * field(line, "share_of_limit"));
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
    out.line("decode", line);
    lines.push_back(std::move(line));
  }
  out.document.set("decode", std::move(lines));
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
  measure_agreement(out, session, options, budget, bench);
  measure_routed(out, bench, options, sizes, budget);
  if (routers)
    measure_recording(out, bench, options, sizes, budget);
  else
    out.document.set("recording", json::Value::array());
  measure_trace_memory(out, bench, options, budget);
  measure_gradient(out, bench, options, sizes, budget);
}

// measure_model until a signal comes: what was measured by then is told all the same. False when interrupted.
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

void finish_watch(Figures& out, DeviceWatch& watch) {
  json::Value watched = watch.finish();
  out.text("%s", watch_text(watched).c_str());
  out.document.set("watched", std::move(watched));
}

void expect_positions(const BenchOptions& options, const Model& model, int64_t longest) {
  if (model.max_positions > 0 && longest > model.max_positions)
    throw Error(options.shape.empty() ? "--prompt-tokens, --new-tokens" : "--prompt-tokens, --context, --new-tokens",
                "expected at most the model's " + std::to_string(model.max_positions) + " positions, found " +
                    std::to_string(longest));
}

int bench_model(const BenchOptions& options) {
  const Budget budget(options.budget);
  Session session = open_session(options);
  ModelBenchOptions bench;
  bench.quiet = options.quiet;
  bench.prefill = {options.n_prompt > 0 ? options.n_prompt : 256};
  bench.context = options.context > 0 ? options.context : bench.prefill.front();
  bench.n_new = options.n_new > 0 ? options.n_new : options.quick ? 16 : 64;
  bench.batches = {1};
  if (options.batch > 1) bench.batches.push_back(options.batch);
  bench.chunk = session.options.chunk;
  bench.repeats = options.repeats;
  expect_positions(options, session.model, std::max(bench.prefill.front(), bench.context + bench.n_new));
  const MachineLimits limits = measure_limits(options, *session.backend);
  DeviceWatch watch(session.backend->name());
  tell_cpu_fallback(options, session);
  ModelBench measuring(session, bench, limits, budget);

  Figures out(options.json);
  out.document = machine(*session.backend, options);
  out.document.set("model", session.path).set("load", load_json(session.weight_memory));
  if (!session.adapters.empty()) out.document.set("adapters", adapters_json(session));
  set_limits(out.document, limits);
  out.line("limits", out.document);
  describe(out, session.label_with_adapters(), *session.backend, limits);
  out.text("%s", load_text(session.weight_memory).c_str());
  out.text("\n");
  const bool whole = measure_until_interrupted(out, session, measuring, options, bench, budget);
  // The first of each under names of its own; null where it was left out.
  const auto of = [&](const char* list, bool last, const char* key) {
    const auto& lines = out.document.find(list)->items();
    return lines.empty() ? json::Value() : *(last ? lines.back() : lines.front()).find(key);
  };
  const json::Value gbytes = of("decode", false, "gbytes_per_second");
  out.document.set("prompt_tokens", bench.prefill.front())
      .set("new_tokens", bench.n_new)
      .set("prefill_tokens_per_second", of("prefill", false, "tokens_per_second"))
      .set("decode_tokens_per_second", of("decode", false, "tokens_per_second"))
      .set("decode_gbytes_per_second", gbytes)
      .set("decode_share_of_read_bandwidth",
           gbytes.is_null() ? json::Value() : json::Value(gbytes.real() / limits.gbytes))
      .set("batch", options.batch)
      .set("batch_decode_tokens_per_second", of("decode", true, "tokens_per_second"))
      .set("weight_bytes_per_token", weight_bytes(session.model, session.weights, 1))
      .set("resident_bytes", resident_bytes());
  out.text("\nresident memory %.1f MB\n", static_cast<double>(resident_bytes()) * 1e-6);
  finish_watch(out, watch);
  out.finish();
  return whole ? 0 : 3;
}

// What tools/bench-peers asks for, in turns with other engines.
int bench_turns(const BenchOptions& options) {
  Session session = open_session(options);
  json::Value line = machine(*session.backend, options);
  line.set("model", session.path).set("load", load_json(session.weight_memory));
  set_limits(line, measure_limits(options, *session.backend));
  write_stdout(json::dump(line) + "\n");
  answer_turns(session, options.chunk > 0 ? options.chunk : default_chunk(*session.backend), std::cin);
  return 0;
}

// A model of a released shape with random weights: on the CPU in memory of their own, on a device from a small pool.
int bench_shape_command(const BenchOptions& options) {
  const Budget budget(options.budget);
  BenchShape shape = bench_shape(options.shape);
  const int64_t of_layers = shape.model.n_layers();
  if (options.layers > of_layers)
    throw UsageError("--layers", "expected at most the " + std::to_string(of_layers) + " of " + shape.name +
                                     ", found " + std::to_string(options.layers));
  if (options.layers > 0) shape.model.layers.resize(static_cast<size_t>(options.layers));
  Session session;
  session.backend = open_backend(options);
  const bool device = !session.backend->shares_host_memory();

  ModelBenchOptions bench;
  bench.quiet = options.quiet;
  const int64_t most = shape.model.max_positions > 0 ? shape.model.max_positions : INT64_MAX;
  if (options.n_prompt > 0)
    bench.prefill = {options.n_prompt};
  else if (device)
    bench.prefill = {512, std::min<int64_t>(4096, most)};
  else
    bench.prefill = {512};
  bench.context = options.context > 0 ? options.context : device ? 1024 : 128;
  bench.n_new = options.n_new > 0 ? options.n_new : device && !options.quick ? 64 : device ? 16 : 8;
  if (options.batch_given) {
    bench.batches = {1};
    if (options.batch > 1) bench.batches.push_back(options.batch);
  } else {
    bench.batches = device ? std::vector<int64_t>{1, 8, 32} : std::vector<int64_t>{1, 8};
  }
  bench.chunk = options.chunk > 0 ? options.chunk : default_chunk(*session.backend);
  bench.repeats = options.repeats;
  bench.routed_tokens_most = device ? 4096 : bench.prefill.back();
  expect_positions(options, shape.model, std::max(bench.prefill.back(), bench.context + bench.n_new));

  const int64_t bytes = random_weight_bytes(shape);
  if (!device) {
    const int64_t working = int64_t{1} << 30, available = available_memory();
    if (bytes + working > available)
      throw Error("bench --shape " + shape.name,
                  "expected " + gigabytes(bytes) + " of memory for the weights of " +
                      std::to_string(shape.model.n_layers()) + " layers and " + gigabytes(working) +
                      " to work in, found " + gigabytes(available) + " available; --layers " +
                      std::to_string(layers_that_fit(shape, available - working)) + " would fit");
  }
  RandomMemory memory(device, size_t{67} << 20, options.load == "map");
  session.path = session.label = shape.name;
  session.numerics = options.numerics;
  session.options.batch = options.batch;
  session.options.chunk = bench.chunk;
  session.options.interrupted = &interrupted;
  session.model = shape.model;
  session.weights = random_weights(shape, memory);
  session.shape = probe_shape(shape.model);
  if (device) {
    const int64_t longest = std::max(bench.prefill.back(), bench.batches.back() * (bench.context + bench.n_new));
    require_device_memory(*session.backend, shape.model, session.weights, longest, bench.chunk);
  }
  const MachineLimits limits = measure_limits(options, *session.backend);
  json::Value upload;
  if (device) {
    constexpr int64_t megabyte = 1'000'000;
    Progress progress("uploading", bytes / megabyte, options.quiet, "MB");
    const double start = now();
    session.weights = upload_weights(*session.backend, shape.model, session.weights,
                                     [&](int64_t done) { progress.update(done / megabyte); });
    const double seconds = now() - start;
    progress.done();
    upload = json::Value::object();
    upload.set("bytes", bytes)
        .set("seconds", seconds)
        .set("gbytes_per_second", static_cast<double>(bytes) / seconds * 1e-9);
  }
  DeviceWatch watch(session.backend->name());
  tell_cpu_fallback(options, session);
  ModelBench measuring(session, bench, limits, budget);

  Figures out(options.json);
  out.document = machine(*session.backend, options);
  out.document.set("shape", shape.name)
      .set("layers", shape.model.n_layers())
      .set("of_layers", of_layers)
      .set("weights", shape.mxfp4 ? "random, experts MXFP4, else bf16" : "random, bf16")
      .set("host_weight_bytes", bytes)
      .set("weight_bytes_per_token", weight_bytes(shape.model, session.weights, 1));
  set_limits(out.document, limits);
  const std::string cut = shape.model.n_layers() < of_layers ? " (of " + std::to_string(of_layers) + ")" : "";
  describe(out, shape.name + ", " + std::to_string(shape.model.n_layers()) + cut + " layers, random weights",
           *session.backend, limits);
  if (!upload.is_null())
    out.text("upload   %.2f GB in %.2f s, %.1f GB/s\n", static_cast<double>(bytes) * 1e-9,
             upload.find("seconds")->real(), upload.find("gbytes_per_second")->real());
  out.document.set("upload", std::move(upload));
  out.line("limits", out.document);
  out.text("\n");
  const bool whole = measure_until_interrupted(out, session, measuring, options, bench, budget);
  finish_watch(out, watch);
  out.finish();
  return whole ? 0 : 3;
}

// Which ops are measured: at the shapes that suit the backend, or at the given one.
OpBenchOptions chosen_ops(const BenchOptions& options, const Backend& backend) {
  OpBenchOptions chosen = op_bench_options(backend);
  if (options.shape.empty()) return chosen;
  chosen.shapes = {bench_shape(options.shape)};
  if (!backend.shares_host_memory()) return chosen;
  BenchShape layer = chosen.shapes.front();
  layer.model.layers = {layer.model.layers.back()};
  const int64_t bytes = random_weight_bytes(layer), available = available_memory();
  if (bytes > available)
    throw Error("bench --kernels --shape " + layer.name, "expected " + gigabytes(bytes) +
                                                             " of memory for the weights of a layer, found " +
                                                             gigabytes(available) + " available");
  return chosen;
}

int bench_kernels(const BenchOptions& options) {
  if (!options.shape.empty()) bench_shape(options.shape);  // a name that nobody has is told before a device is opened
  const std::unique_ptr<Backend> backend = open_backend(options);
  const OpBenchOptions ops = chosen_ops(options, *backend);
  const MachineLimits limits = measure_limits(options, *backend);
  DeviceWatch watch(backend->name());
  const Figures out(options.json);
  if (options.json) {
    json::Value line = machine(*backend, options);
    set_limits(line, limits);
    write_stdout(json::dump(line) + "\n");
  } else {
    describe(out, "kernels", *backend, limits);
    out.text("%s\n\n%-21s %-18s %-77s %10s %10s %9s %7s\n",
             limits.device ? "us: the median of rounds; limit: share of the least time that either limit allows"
                           : "us: the fastest of several; limit: share of the least time that either limit allows",
             "op", "model", "shape", "us", "GFLOP/s", "GB/s", "limit");
  }
  bench_ops(*backend, ops, [&](const OpSpeed& speed) {
    stop_if_interrupted();
    const double share = limits.least_seconds(speed.flops, speed.bytes) / speed.seconds;
    if (options.json) {
      json::Value line = json::Value::object();
      line.set("op", speed.op)
          .set("model", speed.model)
          .set("shape", speed.shape)
          .set("tokens", speed.tokens)
          .set("seconds", speed.seconds)
          .set("spread", speed.spread)
          .set("gflops", speed.gflops())
          .set("gbytes_per_second", speed.gbytes())
          .set("share_of_compute", speed.gflops() / limits.gflops)
          .set("share_of_memory", speed.gbytes() / limits.gbytes)
          .set("share_of_limit", share);
      if (!limits.device)
        line.set("share_of_fma", speed.gflops() / limits.gflops).set("share_of_read", speed.gbytes() / limits.gbytes);
      write_stdout(json::dump(line) + "\n");
    } else {
      out.text("%-21s %-18s %-77s %10.1f %10.1f %9.2f %6.0f%%\n", speed.op.c_str(), speed.model.c_str(),
               speed.shape.c_str(), speed.seconds * 1e6, speed.gflops(), speed.gbytes(), 100 * share);
    }
    std::fflush(stdout);
  });
  const json::Value watched = watch.finish();
  if (options.json && !watched.is_null()) {
    json::Value line = json::Value::object();
    line.set("watched", watched);
    write_stdout(json::dump(line) + "\n");
  } else {
    out.text("%s", watch_text(watched).c_str());
  }
  return 0;
}

}  // namespace

int bench_command(int argc, char** argv) {
  CLI::App app("Speed of a model: prefill, decode, cost of recording, memory; or of the kernels.", "signalbox bench");
  app.footer(
      "Limits are measured in the same run: on the CPU by reading memory and by multiply-adds, on a GPU by a copy and "
      "by\n"
      "a large product. `share_of_limit` is the least time that they allow over the time taken. Every figure is "
      "printed\n"
      "as soon as it is there; with --json as a line of its own, whose \"figure\" says which it is, and all of them "
      "once\n"
      "more in the last line, also after a signal (\"interrupted\": true). What recording costs comes from steps with "
      "and without it that take turns, with a 95 %\n"
      "interval.\n\n"
      "Shapes: " +
      bench_shape_names() +
      "\n\nExamples:\n  signalbox bench builtin\n  signalbox bench builtin --trace-tokens 1000000\n"
      "  signalbox bench --shape " +
      std::string(families::real_shapes().front().name) + " --layers 2\n  signalbox bench --kernels --threads 2");
  BenchOptions options;
  auto* model = app.add_option("MODEL", options.model, "a directory, org/name[@revision] in the cache, or builtin");
  auto* shape =
      app.add_option("--shape", options.shape, "a released model's shape, with random weights")->excludes(model);
  app.add_flag("--kernels", options.kernels, "the kernels at shapes of released models; with --shape at that one's")
      ->excludes(model);
  app.add_option("--layers", options.layers, "only the first so many layers of the shape")
      ->check(in_range(int64_t{1}, int64_t{1} << 20))
      ->needs(shape);
  add_device_options(app, options);
  add_adapter_option(app, options);
  auto* batch = app.add_option("--batch", options.batch, "sequences of the batched measurement")
                    ->check(in_range(1, 4096))
                    ->capture_default_str();
  auto* chunk = app.add_option("--chunk", options.chunk, "given tokens a forward")
                    ->check(in_range(1, 1 << 20))
                    ->default_str("512, on a GPU 4096");
  auto* prompt = app.add_option("--prompt-tokens", options.n_prompt,
                                "given tokens of the prefill (256; with --shape 512, on a GPU 4096 too)")
                     ->check(in_range(1, 1 << 20));
  auto* context = app.add_option("--context", options.context,
                                 "given tokens before decoding (as --prompt-tokens; with --shape 128, on a GPU 1024)")
                      ->check(in_range(1, 1 << 20));
  auto* n_new =
      app.add_option("--new-tokens", options.n_new, "decoded tokens that are timed (64; with --shape 8, on a GPU 64)")
          ->check(in_range(1, 1 << 20));
  auto* repeats =
      app.add_option("--repeats", options.repeats,
                     "the fastest of this many counts (fewer where they take more than 20 s); recording: ten "
                     "times as many rounds")
          ->check(in_range(1, 1000))
          ->capture_default_str();
  auto* trace =
      app.add_option("--trace-tokens", options.trace_tokens, "also trace this many tokens and tell the memory it took")
          ->check(in_range(int64_t{0}, int64_t{1} << 40))
          ->capture_default_str();
  auto* gradient = app.add_flag("--gradient", options.gradient,
                                "also time a gradient (signalbox gradient), in forwards; tell its memory");
  auto* quick = app.add_flag("--quick", options.quick, "one repeat, 16 new tokens; no MoE layer and no cost of recording")
      ->excludes(repeats);
  auto* bounded = app.add_option("--budget", options.budget, "seconds that all may take; what does not fit is named and left out")
      ->check(in_range(1.0, 1e9));
  auto* turns = app.add_flag("--turns", options.turns,
                             "answer requests of standard input instead, a line each: {\"prefill\": N} or\n"
                             "{\"decode\": BATCH, \"context\": C, \"tokens\": N} (tools/bench-peers)")
                    ->needs(model);
  for (CLI::Option* other : {batch, prompt, context, n_new, repeats, trace, gradient, quick, bounded})
    turns->excludes(other);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.kernels) {
    if (options.quick || options.budget > 0)
      throw UsageError("--quick, --budget", "expected a model or a shape beside them, found --kernels");
    for (const CLI::Option* of_model : {batch, chunk, prompt, context, n_new, repeats, trace, gradient})
      if (of_model->count() > 0)
        throw UsageError(of_model->get_name(), "expected a model or a shape beside it, found --kernels");
  }
  if (options.kernels && options.layers > 0)
    throw UsageError("--layers", "expected --shape without --kernels beside it, found --kernels");
  if (!options.adapters.empty() && options.model.empty())
    throw UsageError("--adapter", "expected a model beside it, found none");
  if (options.quick) options.repeats = 1;
  options.batch_given = batch->count() > 0;
  catch_signals();
  if (options.kernels) return bench_kernels(options);
  if (!options.shape.empty()) return bench_shape_command(options);
  if (options.turns) return bench_turns(options);
  if (options.model.empty())
    throw UsageError("signalbox bench", "expected MODEL, --shape or --kernels, found none of them");
  return bench_model(options);
}

}  // namespace signalbox::tools
