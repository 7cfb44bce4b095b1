// signalbox bench: speed of a model or of the kernels, beside limits measured in the same run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "engine/device_weights.h"
#include "loaders/families/real_shapes.h"
#include "tools/bench/device_watch.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/op_bench.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/output.h"
#include "tools/signalbox/progress.h"
#include "tools/signalbox/signals.h"

namespace signalbox {

namespace {

struct BenchOptions : CommonOptions {
  std::string shape;
  bool kernels = false;
  int64_t layers = 0, context = 0, n_prompt = 0, n_new = 0, trace_tokens = 0;
  bool batch_given = false, chunk_given = false;
  int repeats = 3;
};

// Text that grows line by line.
class Table {
 public:
  template <class... T>
  void add(const char* format, T... values) {
    if constexpr (sizeof...(values) == 0) {
      text += format;
    } else {
      char line[256];
      std::snprintf(line, sizeof line, format, values...);
      text += line;
    }
  }
  std::string text;
};

MachineLimits measure_limits(const CommonOptions& options, const Backend& backend) {
  if (backend.shares_host_memory()) return measure_cpu_limits({options.threads, options.isa}, {});
  CommonOptions fast = options;  // --numerics invariant has no library's products
  fast.numerics = "fast";
  fast.device = backend.name();
  const std::unique_ptr<Backend> own = open_backend(fast);
  LimitOptions sizes;
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

void describe(Table& table, const std::string& what, const Backend& backend, const MachineLimits& limits) {
  table.add("%s, %s %s, %d thread%s; measured limits: %s %.1f GB/s, %s %.0f GFLOP/s\n", what.c_str(),
            backend.name().c_str(), backend.isa().c_str(), backend.n_threads(), backend.n_threads() == 1 ? "" : "s",
            limits.gbytes_measured.c_str(), limits.gbytes, limits.gflops_measured.c_str(), limits.gflops);
}

void describe_watch(Table& table, const json::Value& watched) {
  if (watched.is_null()) return;
  const auto median = [&](const char* key) {
    const json::Value* range = watched.find(key);
    return range && !range->is_null() ? range->find("median")->real() : 0;
  };
  table.add("\n%s, driver %s: SM %.0f MHz, memory %.0f MHz, %.0f C, %.0f W (medians while it worked)\n",
            watched.find("name")->string().c_str(), watched.find("driver")->string().c_str(), median("sm_mhz"),
            median("memory_mhz"), median("celsius"), median("watts"));
}

const std::vector<std::pair<std::string, std::string>> recording_modes = {
    {"ids", "*.router.ids"},
    {"ids, weights", "*.router.ids,*.router.weights"},
    {"router logits", "*.router.ids,*.router.weights,*.router.logits"},
    {"residual stream", "*.resid_out"}};

// What was measured of one model, as one document and as text.
struct Measured {
  json::Value document;
  Table table;
};

void measure_model(Measured& out, ModelBench& bench, const BenchOptions& options) {
  json::Value prefills = json::Value::array(), decodes = json::Value::array(), recordings = json::Value::array();
  stop_if_interrupted();
  const auto field = [](const json::Value& line, const char* key) { return line.find(key)->real(); };
  for (const ModelBench::Prefill& prefill : bench.prefill()) {
    json::Value line = bench.to_json(prefill);
    out.table.add("prefill  %6ld tokens            %11.1f tok/s  %10.1f GFLOP/s  %3.0f %% of the limit\n",
                  static_cast<long>(prefill.tokens), field(line, "tokens_per_second"), field(line, "gflops"),
                  100 * field(line, "share_of_limit"));
    prefills.push_back(std::move(line));
  }
  for (const ModelBench::Decode& decode : bench.decode()) {
    json::Value line = bench.to_json(decode);
    const double share = field(line, "share_of_limit");
    out.table.add("decode   batch %4ld, context %5ld %9.1f tok/s  %10.2f GB/s     %3.0f %% of the limit%s\n",
                  static_cast<long>(decode.batch), static_cast<long>(decode.context), field(line, "tokens_per_second"),
                  field(line, "gbytes_per_second"), 100 * share, share > 1 ? " (the model fits a cache)" : "");
    decodes.push_back(std::move(line));
  }
  const json::Value routed = bench.routed();
  for (const json::Value& line : routed.items())
    out.table.add("MoE layer %5ld tokens  %22.1f us     %10.1f GFLOP/s  %3.0f %% of the limit\n",
                  static_cast<long>(line.find("tokens")->integer()), 1e6 * field(line, "seconds"),
                  field(line, "gflops"), 100 * field(line, "share_of_limit"));
  const auto recorded = bench.recording(recording_modes);
  if (!recorded.empty()) {
    const auto& first = recorded.front();
    out.table.add("\nrecording, over none   prefill %ld   decode at 1   decode at %ld\n",
                  static_cast<long>(first.prefill_tokens), static_cast<long>(first.batch));
  }
  for (const ModelBench::Recording& recording : recorded) {
    out.table.add("  %-20s %+9.1f %%    %+7.1f %%     %+7.1f %%\n", recording.name.c_str(),
                  100 * recording.prefill_cost, 100 * recording.decode_cost, 100 * recording.batch_cost);
    recordings.push_back(ModelBench::to_json(recording));
  }
  out.document.set("prefill", std::move(prefills))
      .set("decode", std::move(decodes))
      .set("moe_layer", routed)
      .set("recording", std::move(recordings));
  if (options.trace_tokens > 0) {
    json::Value memory = bench.trace_memory(options.trace_tokens);
    const json::Value* growth = memory.find("peak_growth_bytes");
    out.table.add("\ntrace of %ld tokens: %.1f MB on disk, peak memory %s\n",
                  static_cast<long>(memory.find("tokens")->integer()), memory.find("file_bytes")->real() * 1e-6,
                  growth->is_null()
                      ? "unknown (the system does not let the peak be reset)"
                      : ("+" + std::to_string(growth->integer() / 1000000) + " MB above the model").c_str());
    out.document.set("trace_memory", std::move(memory));
  }
}

void finish_watch(Measured& out, DeviceWatch& watch) {
  json::Value watched = watch.finish();
  describe_watch(out.table, watched);
  out.document.set("watched", std::move(watched));
}

void print(const Measured& out, const BenchOptions& options) {
  write_stdout(options.json ? json::dump(out.document) + "\n" : out.table.text);
}

void expect_positions(const BenchOptions& options, const Model& model, int64_t longest) {
  if (model.max_positions > 0 && longest > model.max_positions)
    throw Error(options.shape.empty() ? "--prompt-tokens, --new-tokens" : "--prompt-tokens, --context, --new-tokens",
                "expected at most the model's " + std::to_string(model.max_positions) + " positions, found " +
                    std::to_string(longest));
}

int bench_model(const BenchOptions& options) {
  Session session = open_session(options);
  ModelBenchOptions bench;
  bench.prefill = {options.n_prompt > 0 ? options.n_prompt : 256};
  bench.context = options.context > 0 ? options.context : bench.prefill.front();
  bench.n_new = options.n_new > 0 ? options.n_new : 64;
  bench.batches = {1};
  if (options.batch > 1) bench.batches.push_back(options.batch);
  bench.chunk = options.chunk;
  bench.repeats = options.repeats;
  expect_positions(options, session.model, std::max(bench.prefill.front(), bench.context + bench.n_new));
  const MachineLimits limits = measure_limits(options, *session.backend);
  DeviceWatch watch(session.backend->name());
  tell_cpu_fallback(options, *session.backend);
  ModelBench measuring(session, options, bench, limits);

  Measured out{machine(*session.backend, options), {}};
  out.document.set("model", session.path);
  set_limits(out.document, limits);
  describe(out.table, session.path, *session.backend, limits);
  out.table.add("\n");
  measure_model(out, measuring, options);
  // The first of each under names of its own.
  const auto first = [&](const char* list) -> const json::Value& { return out.document.find(list)->items().front(); };
  const json::Value& last = out.document.find("decode")->items().back();
  const double gbytes = first("decode").find("gbytes_per_second")->real();
  out.document.set("prompt_tokens", bench.prefill.front())
      .set("new_tokens", bench.n_new)
      .set("prefill_tokens_per_second", *first("prefill").find("tokens_per_second"))
      .set("decode_tokens_per_second", *first("decode").find("tokens_per_second"))
      .set("decode_gbytes_per_second", gbytes)
      .set("decode_share_of_read_bandwidth", gbytes / limits.gbytes)
      .set("batch", options.batch)
      .set("batch_decode_tokens_per_second", *last.find("tokens_per_second"))
      .set("weight_bytes_per_token", weight_bytes(session.model, session.weights, 1))
      .set("resident_bytes", resident_bytes());
  out.table.add("\nresident memory %.1f MB\n", static_cast<double>(resident_bytes()) * 1e-6);
  finish_watch(out, watch);
  print(out, options);
  return 0;
}

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) * 1e-9);
  return text;
}

// A model of a released shape with random weights: on the CPU in memory of their own, on a device from a small pool.
int bench_shape_command(const BenchOptions& options) {
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
  const int64_t most = shape.model.max_positions > 0 ? shape.model.max_positions : INT64_MAX;
  if (options.n_prompt > 0)
    bench.prefill = {options.n_prompt};
  else if (device)
    bench.prefill = {512, std::min<int64_t>(4096, most)};
  else
    bench.prefill = {512};
  bench.context = options.context > 0 ? options.context : device ? 1024 : 128;
  bench.n_new = options.n_new > 0 ? options.n_new : device ? 64 : 8;
  if (options.batch_given) {
    bench.batches = {1};
    if (options.batch > 1) bench.batches.push_back(options.batch);
  } else {
    bench.batches = device ? std::vector<int64_t>{1, 8, 32} : std::vector<int64_t>{1, 8};
  }
  bench.chunk = options.chunk_given ? options.chunk : device ? 0 : 512;
  bench.repeats = options.repeats;
  bench.routed_tokens_most = device ? 4096 : bench.prefill.back();
  expect_positions(options, shape.model, std::max(bench.prefill.back(), bench.context + bench.n_new));

  const int64_t bytes = random_weight_bytes(shape);
  if (!device) {
    const int64_t working = int64_t{1} << 30, available = available_memory();
    if (bytes + working > available)
      throw Error("--shape " + shape.name,
                  "expected " + gigabytes(bytes) + " of memory for the weights of " +
                      std::to_string(shape.model.n_layers()) + " layers and " + gigabytes(working) +
                      " to work in, found " + gigabytes(available) + " available; --layers " +
                      std::to_string(layers_that_fit(shape, available - working)) + " would fit");
  }
  RandomMemory memory(device, size_t{67} << 20);
  session.path = session.label = shape.name;
  session.numerics = options.numerics;
  session.options.batch = options.batch;
  session.options.chunk = options.chunk;
  session.options.interrupted = &interrupted;
  session.model = shape.model;
  session.weights = random_weights(shape, memory);
  session.shape = probe_shape(shape.model);
  if (device) {
    const int64_t longest = std::max(bench.prefill.back(), bench.batches.back() * (bench.context + bench.n_new));
    require_device_memory(*session.backend, shape.model, session.weights, longest);
  }
  const MachineLimits limits = measure_limits(options, *session.backend);
  json::Value upload;
  if (device) {
    Progress progress("uploading", bytes, options.quiet);
    const double start = now();
    session.weights =
        upload_weights(*session.backend, shape.model, session.weights, [&](int64_t done) { progress.update(done); });
    const double seconds = now() - start;
    progress.done();
    upload = json::Value::object();
    upload.set("bytes", bytes)
        .set("seconds", seconds)
        .set("gbytes_per_second", static_cast<double>(bytes) / seconds * 1e-9);
  }
  DeviceWatch watch(session.backend->name());
  tell_cpu_fallback(options, *session.backend);
  ModelBench measuring(session, options, bench, limits);

  Measured out{machine(*session.backend, options), {}};
  out.document.set("shape", shape.name)
      .set("layers", shape.model.n_layers())
      .set("of_layers", of_layers)
      .set("weights", shape.mxfp4 ? "random, experts MXFP4, else bf16" : "random, bf16")
      .set("host_weight_bytes", bytes)
      .set("weight_bytes_per_token", weight_bytes(shape.model, session.weights, 1));
  set_limits(out.document, limits);
  const std::string cut = shape.model.n_layers() < of_layers ? " (of " + std::to_string(of_layers) + ")" : "";
  describe(out.table, shape.name + ", " + std::to_string(shape.model.n_layers()) + cut + " layers, random weights",
           *session.backend, limits);
  if (!upload.is_null())
    out.table.add("upload   %.2f GB in %.2f s, %.1f GB/s\n", static_cast<double>(bytes) * 1e-9,
                  upload.find("seconds")->real(), upload.find("gbytes_per_second")->real());
  out.document.set("upload", std::move(upload));
  out.table.add("\n");
  measure_model(out, measuring, options);
  finish_watch(out, watch);
  print(out, options);
  return 0;
}

int bench_kernels(const BenchOptions& options) {
  const std::unique_ptr<Backend> backend = open_backend(options);
  const MachineLimits limits = measure_limits(options, *backend);
  DeviceWatch watch(backend->name());
  if (options.json) {
    json::Value line = machine(*backend, options);
    set_limits(line, limits);
    write_stdout(json::dump(line) + "\n");
  } else {
    Table head;
    describe(head, "kernels", *backend, limits);
    head.add("%s\n\n%-21s %-18s %-77s %10s %10s %9s %7s\n",
             limits.device ? "us: the median of rounds; limit: share of the least time that either limit allows"
                           : "us: the fastest of several; limit: share of the least time that either limit allows",
             "op", "model", "shape", "us", "GFLOP/s", "GB/s", "limit");
    write_stdout(head.text);
  }
  bench_ops(*backend, op_bench_options(*backend), [&](const OpSpeed& speed) {
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
      Table row;
      row.add("%-21s %-18s %-77s %10.1f %10.1f %9.2f %6.0f%%\n", speed.op.c_str(), speed.model.c_str(),
              speed.shape.c_str(), speed.seconds * 1e6, speed.gflops(), speed.gbytes(), 100 * share);
      write_stdout(row.text);
    }
    std::fflush(stdout);
  });
  const json::Value watched = watch.finish();
  if (options.json && !watched.is_null()) {
    json::Value line = json::Value::object();
    line.set("watched", watched);
    write_stdout(json::dump(line) + "\n");
  } else if (!options.json) {
    Table last;
    describe_watch(last, watched);
    write_stdout(last.text);
  }
  return 0;
}

}  // namespace

int bench_command(int argc, char** argv) {
  CLI::App app("Speed of a model: prefill, decode, cost of recording, memory; or of the kernels.", "signalbox bench");
  app.footer(
      "Limits are measured in the same run: on the CPU by reading memory and by multiply-adds, on a GPU by a copy and "
      "by\n"
      "a large product. `share_of_limit` is the least time that they allow over the time taken.\n\n"
      "Shapes: " +
      bench_shape_names() +
      "\n\nExamples:\n  signalbox bench builtin\n  signalbox bench builtin --trace-tokens 1000000\n"
      "  signalbox bench --shape " +
      std::string(families::real_shapes().front().name) + " --layers 2\n  signalbox bench --kernels --threads 2");
  BenchOptions options;
  auto* model = app.add_option("MODEL", options.model, "a directory, org/name[@revision] in the cache, or builtin");
  auto* shape =
      app.add_option("--shape", options.shape, "a released model's shape, with random weights")->excludes(model);
  app.add_flag("--kernels", options.kernels, "the kernels at shapes of released models")
      ->excludes(model)
      ->excludes(shape);
  app.add_option("--layers", options.layers, "only the first so many layers of the shape")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->needs(shape);
  add_device_options(app, options);
  auto* batch = app.add_option("--batch", options.batch, "sequences of the batched measurement")
                    ->check(CLI::Range(1, 4096))
                    ->capture_default_str();
  auto* chunk = app.add_option("--chunk", options.chunk, "given tokens a forward")
                    ->check(CLI::Range(1, 1 << 20))
                    ->capture_default_str();
  app.add_option("--prompt-tokens", options.n_prompt,
                 "given tokens of the prefill (256; with --shape 512, on a GPU 4096 too)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--context", options.context,
                 "given tokens before decoding (as --prompt-tokens; with --shape 128, on a GPU 1024)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--new-tokens", options.n_new, "decoded tokens that are timed (64; with --shape 8, on a GPU 64)")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--repeats", options.repeats, "the fastest of this many counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--trace-tokens", options.trace_tokens, "also trace this many tokens and tell the memory it took")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  options.batch_given = batch->count() > 0;
  options.chunk_given = chunk->count() > 0;
  catch_signals();
  if (options.kernels) return bench_kernels(options);
  if (!options.shape.empty()) return bench_shape_command(options);
  if (options.model.empty())
    throw UsageError("signalbox bench", "expected MODEL, --shape or --kernels, found none of them");
  return bench_model(options);
}

}  // namespace signalbox
