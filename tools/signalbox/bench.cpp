// signalbox bench: speed of a model or of the kernels, beside limits measured in the same run.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tools/bench/op_bench.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/common.h"

namespace signalbox {

namespace {

using Clock = std::chrono::steady_clock;

// Resident memory of this process in bytes, and the largest it ever was.
struct Resident {
  int64_t now = 0, peak = 0;
};
Resident resident_memory() {
  Resident found;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto kilobytes = [&] { return std::stoll(line.substr(line.find_first_of("0123456789"))) * 1024; };
    if (line.starts_with("VmRSS:")) found.now = kilobytes();
    if (line.starts_with("VmHWM:")) found.peak = kilobytes();
  }
  return found;
}

// Starts a new peak, so that the next VmHWM is of what follows. False where the system does not allow it.
bool reset_peak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5";
  clear.flush();
  return static_cast<bool>(clear);
}

class TemporaryTrace {
 public:
  TemporaryTrace() {
    std::string name = (std::filesystem::temp_directory_path() / "signalbox-bench-XXXXXX").string();
    if (!mkdtemp(name.data())) throw Error(name, "cannot make a temporary directory");
    path = name;
  }
  ~TemporaryTrace() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

struct Speed {
  std::string what;
  int64_t tokens = 0;
  double seconds = 0;
  double bytes = 0;  // of weights that must be read; 0 = not a bandwidth figure
  double rate() const { return static_cast<double>(tokens) / seconds; }
};

class ModelBench {
 public:
  ModelBench(OpenedModel& model, const CommonOptions& options, int64_t n_prompt, int64_t n_new, int repeats)
      : model_(model), options_(options), repeats_(repeats) {
    const int64_t limit = model.loaded.model.max_positions;
    if (limit > 0 && n_prompt + n_new > limit)
      throw Error("--prompt-tokens, --new-tokens", "expected at most the model's " + std::to_string(limit) +
                                                       " positions, found " + std::to_string(n_prompt + n_new));
  }

  // Seconds of prefill and of decode, the fastest of the repeats.
  std::pair<double, double> measure(int64_t n_sequences, int64_t n_prompt, int64_t n_new, const std::string& points) {
    double prefill = INFINITY, decode = INFINITY;
    for (int r = 0; r < repeats_; ++r) {
      Forward forward(*model_.backend, model_.loaded.model, model_.loaded.weights, 0);
      const std::vector<Job> jobs = make_jobs(n_sequences, n_prompt, n_new);
      TemporaryTrace directory;
      std::unique_ptr<TraceWriter> trace = make_trace(points, directory);
      RunOptions run = run_options(options_, model_, {});
      run.ignore_eos = true;
      run.batch = n_sequences;
      double prefilled = 0, decoded = 0;
      RunEvents events;
      events.on_done = [&](const Result& result) {
        prefilled = std::max(prefilled, result.prefill_seconds);
        decoded = std::max(decoded, result.decode_seconds);
      };
      const auto start = Clock::now();
      if (!run_jobs(forward, jobs, run, events, trace.get())) throw Interrupted{};
      const double total = std::chrono::duration<double>(Clock::now() - start).count();
      if (n_new == 0) prefilled = total;
      prefill = std::min(prefill, prefilled);
      decode = std::min(decode, decoded);
    }
    return {prefill, decode};
  }

  // Peak resident memory that recording ids and weights of `n_tokens` tokens adds, and what it cost.
  json::Value trace_memory(int64_t n_tokens) {
    Forward forward(*model_.backend, model_.loaded.model, model_.loaded.weights, 0);
    const int64_t limit = model_.loaded.model.max_positions;
    const int64_t length = std::min<int64_t>(limit > 0 ? limit : 4096, 512);
    measure(1, length, 0, "");  // buffers and touched weights are there before the count begins
    const bool reset = reset_peak();
    const Resident before = resident_memory();
    const std::vector<Job> jobs = make_jobs((n_tokens + length - 1) / length, length, 0);
    TemporaryTrace directory;
    std::unique_ptr<TraceWriter> trace = make_trace(std::string(default_points), directory);
    Progress progress("tracing", n_tokens, options_.quiet);
    RunEvents events;
    events.on_progress = [&](int64_t done) { progress.update(done); };
    RunOptions run = run_options(options_, model_, {});
    if (!run_jobs(forward, jobs, run, events, trace.get())) throw Interrupted{};
    std::vector<std::string> ids;
    for (const Job& job : jobs) ids.push_back(job.prompt->id);
    const int64_t rows = trace->n_rows();
    trace->finish(ids, [](int64_t) { return json::Value::object(); });
    progress.done();
    const Resident after = resident_memory();
    json::Value out = json::Value::object();
    out.set("tokens", rows)
        .set("file_bytes", static_cast<int64_t>(std::filesystem::file_size(directory.path / "trace.safetensors")))
        .set("peak_growth_bytes", reset ? json::Value(after.peak - before.now) : json::Value());
    return out;
  }

 private:
  std::vector<Job> make_jobs(int64_t n_sequences, int64_t n_prompt, int64_t n_new) const {
    std::vector<Job> jobs;
    uint32_t state = 1;
    for (int64_t s = 0; s < n_sequences; ++s) {
      auto prompt = std::make_shared<Prompt>();
      prompt->id = "bench-" + std::to_string(s);
      for (int64_t t = 0; t < n_prompt; ++t) {
        state = state * 1664525u + 1013904223u;
        prompt->tokens.push_back(static_cast<int32_t>((state >> 8) % model_.loaded.model.n_vocab));
      }
      Job job;
      job.index = s;
      job.prompt = prompt;
      job.max_new = n_new;
      jobs.push_back(std::move(job));
    }
    return jobs;
  }

  std::unique_ptr<TraceWriter> make_trace(const std::string& points, const TemporaryTrace& directory) const {
    CommonOptions traced = options_;
    traced.trace = points.empty() ? "" : directory.path.string();
    traced.points = points;
    PreparedRun run;
    run.max_slots = model_.shape.n_active();
    return open_trace(traced, model_, run);
  }

  OpenedModel& model_;
  const CommonOptions& options_;
  const int repeats_;
};

// Bytes of weights that one forward of `n_tokens` tokens must read at least: every expert at most once.
double weight_bytes(const Model& model, Weights& weights, int64_t n_tokens) {
  double bytes = 0;
  for_each_tensor(model, weights, [&](const TensorSlot& slot) {
    const double size = slot.matrix ? static_cast<double>(matrix_bytes(*slot.matrix)) : 4.0 * slot.vector->n;
    if (slot.id.expert >= 0) {
      const Router& router = model.layers[slot.id.layer].moe()->router;
      bytes += size * std::min(1.0, static_cast<double>(router.n_active * n_tokens) / router.n_experts);
    } else if (slot.id.role == Role::embed && !model.tied_embeddings) {
      bytes += size / static_cast<double>(model.n_vocab) * static_cast<double>(n_tokens);
    } else {
      bytes += size;
    }
  });
  return bytes;
}

int bench_model(const CommonOptions& options, int64_t n_prompt, int64_t n_new, int repeats, int64_t trace_tokens) {
  OpenedModel model = open_model(options);
  ModelBench bench(model, options, n_prompt, n_new, repeats);
  OpBenchOptions limit_options;
  limit_options.cpu = {options.threads, options.isa};
  const MachineLimits limits = measure_limits(limit_options);

  const double decode_bytes = weight_bytes(model.loaded.model, model.loaded.weights, 1);
  const auto [prefill, decode] = bench.measure(1, n_prompt, n_new + 1, "");
  const int64_t n_sequences = options.batch;
  // Prompts that fit one forward together, so that no sequence waits for another's prompt while it decodes.
  const int64_t n_prompt_many = std::max<int64_t>(1, std::min(n_prompt, options.chunk / n_sequences));
  const double decode_many = bench.measure(n_sequences, n_prompt_many, n_new + 1, "").second;
  const Resident resident = resident_memory();

  json::Value out = json::Value::object(), recording = json::Value::array();
  const double decode_rate = static_cast<double>(n_new) / decode;
  const double prefill_rate = static_cast<double>(n_prompt) / prefill;
  const double batch_rate = static_cast<double>(n_sequences * n_new) / decode_many;
  const double gbytes = decode_bytes * decode_rate * 1e-9;
  out.set("model", model.loaded.resolved.path)
      .set("isa", model.backend->isa())
      .set("threads", int64_t{model.backend->n_threads()})
      .set("prompt_tokens", n_prompt)
      .set("new_tokens", n_new)
      .set("read_gbytes_per_second", limits.read_gbytes)
      .set("fma_gflops", limits.fma_gflops)
      .set("prefill_tokens_per_second", prefill_rate)
      .set("decode_tokens_per_second", decode_rate)
      .set("decode_gbytes_per_second", gbytes)
      .set("decode_share_of_read_bandwidth", gbytes / limits.read_gbytes)
      .set("batch", n_sequences)
      .set("batch_decode_tokens_per_second", batch_rate)
      .set("weight_bytes_per_token", decode_bytes)
      .set("resident_bytes", resident.now);

  std::string text;
  char line[200];
  auto add = [&](const char* format, auto... values) {
    std::snprintf(line, sizeof line, format, values...);
    text += line;
  };
  add("%s, %s, %d threads; measured limits: read %.1f GB/s, f32 FMA %.0f GFLOP/s\n\n",
      model.loaded.resolved.path.c_str(), model.backend->isa().c_str(), model.backend->n_threads(), limits.read_gbytes,
      limits.fma_gflops);
  add("prefill   %10.1f tok/s   %ld tokens\n", prefill_rate, static_cast<long>(n_prompt));
  add("decode    %10.1f tok/s   %.2f GB/s of weights, %.0f %% of the read bandwidth%s\n", decode_rate, gbytes,
      100 * gbytes / limits.read_gbytes, gbytes > limits.read_gbytes ? " (the model fits a cache)" : "");
  add("decode    %10.1f tok/s   %ld sequences at once\n", batch_rate, static_cast<long>(n_sequences));
  add("resident  %10.1f MB\n\nrecording               prefill        decode\n",
      static_cast<double>(resident.now) * 1e-6);

  const std::pair<const char*, const char*> modes[] = {{"ids", "*.router.ids"},
                                                       {"ids, weights", "*.router.ids,*.router.weights"},
                                                       {"all router points", "*.router.*"},
                                                       {"residual stream", "*.resid_out"}};
  for (const auto& [name, points] : modes) {
    const auto [p, d] = bench.measure(1, n_prompt, n_new + 1, points);
    json::Value entry = json::Value::object();
    entry.set("points", points).set("prefill_cost", p / prefill - 1).set("decode_cost", d / decode - 1);
    recording.push_back(entry);
    add("  %-20s %+7.1f %%     %+7.1f %%\n", name, 100 * (p / prefill - 1), 100 * (d / decode - 1));
  }
  out.set("recording", std::move(recording));
  if (trace_tokens > 0) {
    json::Value memory = bench.trace_memory(trace_tokens);
    const json::Value* growth = memory.find("peak_growth_bytes");
    add("\ntrace of %ld tokens: %.1f MB on disk, peak memory %s\n", static_cast<long>(memory.find("tokens")->integer()),
        memory.find("file_bytes")->real() * 1e-6,
        growth->is_null() ? "unknown (the system does not let the peak be reset)"
                          : ("+" + std::to_string(growth->integer() / 1000000) + " MB above the model").c_str());
    out.set("trace_memory", std::move(memory));
  }
  write_stdout(options.json ? json::dump(out) + "\n" : text);
  return 0;
}

int bench_kernels(const CommonOptions& options) {
  OpBenchOptions bench;
  bench.cpu = {options.threads, options.isa};
  const MachineLimits limits = measure_limits(bench);
  if (options.json) {
    json::Value line = json::Value::object();
    line.set("read_gbytes_per_second", limits.read_gbytes).set("fma_gflops", limits.fma_gflops);
    write_stdout(json::dump(line) + "\n");
  } else {
    char text[256];
    std::snprintf(text, sizeof text,
                  "limits: read %.1f GB/s, f32 FMA %.0f GFLOP/s\n\n%-16s %-34s %10s %9s %6s %9s %6s\n",
                  limits.read_gbytes, limits.fma_gflops, "op", "shape", "us", "GFLOP/s", "%", "GB/s", "%");
    write_stdout(text);
  }
  bench_ops(bench, [&](const OpSpeed& speed) {
    stop_if_interrupted();
    if (options.json) {
      json::Value line = json::Value::object();
      line.set("op", speed.op)
          .set("shape", speed.shape)
          .set("seconds", speed.seconds)
          .set("gflops", speed.gflops())
          .set("gbytes_per_second", speed.gbytes())
          .set("share_of_fma", speed.gflops() / limits.fma_gflops)
          .set("share_of_read", speed.gbytes() / limits.read_gbytes);
      write_stdout(json::dump(line) + "\n");
    } else {
      char text[200];
      std::snprintf(text, sizeof text, "%-16s %-34s %10.1f %9.1f %5.0f%% %9.2f %5.0f%%\n", speed.op.c_str(),
                    speed.shape.c_str(), speed.seconds * 1e6, speed.gflops(), 100 * speed.gflops() / limits.fma_gflops,
                    speed.gbytes(), 100 * speed.gbytes() / limits.read_gbytes);
      write_stdout(text);
    }
    std::fflush(stdout);
  });
  return 0;
}

}  // namespace

int bench_command(int argc, char** argv) {
  CLI::App app("Speed of a model: prefill, decode, cost of recording, memory; or of the kernels.", "signalbox bench");
  app.footer(
      "Examples:\n  signalbox bench builtin\n  signalbox bench builtin --trace-tokens 1000000\n"
      "  signalbox bench --kernels --threads 2");
  CommonOptions options;
  bool kernels = false;
  int64_t n_prompt = 256, n_new = 64, trace_tokens = 0;
  int repeats = 3;
  auto* model = app.add_option("MODEL", options.model, "a directory, org/name[@revision] in the cache, or builtin");
  app.add_flag("--kernels", kernels, "the kernels at shapes of real models")->excludes(model);
  add_device_options(app, options);
  app.add_option("--batch", options.batch, "sequences of the batched measurement")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "given tokens a forward")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--prompt-tokens", n_prompt, "given tokens")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--new-tokens", n_new, "decoded tokens")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--repeats", repeats, "the fastest of this many counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--trace-tokens", trace_tokens, "also trace this many tokens and tell the memory it took")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  catch_signals();
  if (!kernels && options.model.empty())
    throw UsageError("signalbox bench", "expected MODEL or --kernels, found neither");
  return kernels ? bench_kernels(options) : bench_model(options, n_prompt, n_new, repeats, trace_tokens);
}

}  // namespace signalbox
