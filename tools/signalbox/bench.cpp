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
#include "tools/bench/device_watch.h"
#include "tools/bench/figures.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/op_bench.h"
#include "tools/bench/turns.h"
#include "tools/signalbox/bench_measures.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

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
  BenchOptions brief = options;
  brief.quick = true;
  set_limits(line, measure_limits(brief, *session.backend));
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
  auto* quick =
      app.add_flag("--quick", options.quick, "one repeat, 16 new tokens; no MoE layer and no cost of recording")
          ->excludes(repeats);
  auto* bounded =
      app.add_option("--budget", options.budget, "seconds that all may take; what does not fit is named and left out")
          ->check(in_range(1.0, 1e9));
  auto* profile =
      app.add_flag("--profile", options.profile, "also time op by op: a prefill, and a step of decoding at each batch");
  auto* turns = app.add_flag("--turns", options.turns,
                             "answer requests of standard input instead, a line each: {\"prefill\": N} or\n"
                             "{\"decode\": BATCH, \"context\": C, \"tokens\": N} (tools/bench-peers)")
                    ->needs(model);
  for (CLI::Option* other : {batch, prompt, context, n_new, repeats, trace, gradient, quick, bounded, profile})
    turns->excludes(other);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.kernels) {
    if (options.quick || options.budget > 0)
      throw UsageError("--quick, --budget", "expected a model or a shape beside them, found --kernels");
    for (const CLI::Option* of_model : {batch, chunk, prompt, context, n_new, repeats, trace, gradient, profile})
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
