#include "tools/bench/model_bench.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "tools/bench/op_bench.h"
#include "tools/signalbox/progress.h"
#include "tools/signalbox/signals.h"

namespace signalbox {

namespace {

// Steps before the timed ones: on a device they capture what the others repeat.
constexpr int64_t warm_steps = 6;

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

double number(int64_t n) { return static_cast<double>(n); }

}  // namespace

int64_t resident_bytes() { return resident_memory().now; }

double weight_bytes(const Model& model, const Weights& weights, int64_t n_tokens) {
  double bytes = 0;
  Weights views = weights;
  for_each_tensor(model, views, [&](const TensorSlot& slot) {
    const double size = slot.matrix ? number(stored_bytes(*slot.matrix)) : 4.0 * number(slot.vector->n);
    if (slot.id.expert >= 0) {
      const Router& router = model.layers[static_cast<size_t>(slot.id.layer)].moe()->router;
      bytes += size * (1 - std::pow(1 - number(router.n_active) / router.n_experts, number(n_tokens)));
    } else if (slot.id.role == Role::embed && !model.tied_embeddings) {
      bytes += size / number(model.n_vocab) * number(n_tokens);
    } else {
      bytes += size;
    }
  });
  return bytes;
}

double kv_bytes(const Model& model, DType dtype, int64_t n_keys) {
  double elements = 0;
  for (const Layer& layer : model.layers) {
    const Gqa* gqa = std::get_if<Gqa>(&layer.attention);
    const int64_t seen = gqa && gqa->window > 0 ? std::min(n_keys, gqa->window) : n_keys;
    const auto [keys, values] = Model::kv_width(layer);
    elements += number(keys + values) * number(seen);
  }
  return elements * number(static_cast<int64_t>(dtype_size(dtype)));
}

double forward_flops(const Model& model, int64_t first, int64_t n_tokens, int64_t n_logits) {
  // A multiply-add for every parameter that a token uses, but for its row of the embedding. The output layer apart.
  const double head = number(model.n_vocab) * number(model.d_model);
  const double inner = number(count_parameters(model).active) - number(model.d_model) - head;
  double flops = 2 * inner * number(n_tokens) + 2 * head * number(n_logits);
  for (const Layer& layer : model.layers) {
    double width = 0;
    int64_t window = 0;
    if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
      width = number(gqa->n_heads * 2 * gqa->d_head);
      window = gqa->window;
    } else {
      const Mla& mla = std::get<Mla>(layer.attention);
      width = number(mla.n_heads * (2 * mla.d_latent + mla.d_rope));  // the absorbed form
    }
    for (int64_t t = 0; t < n_tokens; ++t)
      flops += 2 * width * number(window > 0 ? std::min(first + t + 1, window) : first + t + 1);
  }
  return flops;
}

ModelBench::ModelBench(Session& session, const CommonOptions& options, const ModelBenchOptions& bench,
                       const MachineLimits& limits)
    : session_(session),
      options_(options),
      bench_(bench),
      limits_(limits),
      forward_(*session.backend, session.model, session.weights, 0) {}

std::vector<Job> ModelBench::make_jobs(int64_t n_sequences, int64_t n_prompt, int64_t n_new) const {
  std::vector<Job> jobs;
  uint32_t state = 1;
  for (int64_t s = 0; s < n_sequences; ++s) {
    auto prompt = std::make_shared<Prompt>("bench-" + std::to_string(s));
    for (int64_t t = 0; t < n_prompt; ++t) {
      state = state * 1664525u + 1013904223u;
      prompt->tokens.push_back(static_cast<int32_t>((state >> 8) % session_.model.n_vocab));
    }
    Job job;
    job.index = s;
    job.prompt = prompt;
    job.task = Generate{n_new, {}};
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::unique_ptr<TraceWriter> ModelBench::make_trace(const std::string& points, const std::string& directory) const {
  if (points.empty()) return nullptr;
  TraceRequest request;
  request.dir = directory;
  request.points = PointSet::parse(points, session_.shape);
  return session_.open_trace(request);
}

ModelBench::Prefill ModelBench::measure_prefill(int64_t n_tokens, const std::string& points) {
  Prefill result;
  result.tokens = n_tokens;
  result.chunk = bench_.chunk > 0 ? std::min(bench_.chunk, n_tokens) : n_tokens;
  result.seconds = INFINITY;
  const std::vector<Job> jobs = make_jobs(1, n_tokens, 1);
  RunOptions run = session_.options;
  run.ignore_eos = true;
  run.batch = 1;
  run.chunk = result.chunk;
  const bool device = !session_.backend->shares_host_memory();
  for (int r = device ? -1 : 0; r < bench_.repeats; ++r) {  // on a device the first run takes memory and is not counted
    TemporaryTrace directory;
    const std::unique_ptr<TraceWriter> trace = make_trace(points, directory.path.string());
    RunEvents events;
    double seconds = 0;
    events.on_done = [&](const Result& done) { seconds = done.prefill_seconds; };
    if (!run_jobs(forward_, jobs, run, events, trace.get())) throw Interrupted{};
    if (r >= 0) result.seconds = std::min(result.seconds, seconds);
  }
  const Model& model = session_.model;
  result.flops = forward_flops(model, 0, n_tokens, 1);
  for (int64_t at = 0; at < n_tokens; at += result.chunk)
    result.bytes += weight_bytes(model, session_.weights, std::min(result.chunk, n_tokens - at));
  return result;
}

ModelBench::Decode ModelBench::measure_decode(int64_t batch, const std::string& points) {
  const Model& model = session_.model;
  // Sequences whose prompts are done decode while the others' are read; only steps of all sequences are timed.
  const int64_t chunk = bench_.chunk > 0 ? bench_.chunk : std::max<int64_t>(4096, bench_.context);
  const int64_t waiting = (batch * bench_.context + chunk - 1) / chunk;
  const int64_t n_new = bench_.n_new + warm_steps + waiting + 1;
  const std::vector<Job> jobs = make_jobs(batch, bench_.context, n_new);
  RunOptions run = session_.options;
  run.ignore_eos = true;
  run.batch = batch;
  run.chunk = chunk;

  Decode result;
  result.batch = batch;
  result.seconds = INFINITY;
  for (int r = 0; r < bench_.repeats; ++r) {
    TemporaryTrace directory;
    const std::unique_ptr<TraceWriter> trace = make_trace(points, directory.path.string());
    std::vector<std::vector<double>> times(jobs.size());
    RunEvents events;
    events.on_token = [&](const Job& job, int32_t, const std::string&) {
      times[static_cast<size_t>(job.index)].push_back(now());
    };
    if (!run_jobs(forward_, jobs, run, events, trace.get())) throw Interrupted{};
    double start = 0, end = INFINITY;
    for (const auto& of_job : times) {
      start = std::max(start, of_job.at(warm_steps));
      end = std::min(end, of_job.back());
    }
    int64_t steps = 0;
    for (const double time : times.front()) steps += time > start && time <= end;
    if (steps > 0) result.seconds = std::min(result.seconds, (end - start) / number(steps));
  }
  if (std::isinf(result.seconds))
    throw Error("bench", "expected steps of all " + std::to_string(batch) + " sequences together, found none");
  result.context = bench_.context + warm_steps + waiting + bench_.n_new / 2;
  result.bytes = weight_bytes(model, session_.weights, batch) +
                 number(batch) * kv_bytes(model, session_.backend->kv_dtype(), result.context);
  result.flops = number(batch) * forward_flops(model, result.context - 1, 1, 1);
  return result;
}

std::vector<ModelBench::Prefill> ModelBench::prefill() {
  std::vector<Prefill> all;
  for (const int64_t n : bench_.prefill) all.push_back(measure_prefill(n, ""));
  return all;
}

std::vector<ModelBench::Decode> ModelBench::decode() {
  std::vector<Decode> all;
  for (const int64_t batch : bench_.batches) all.push_back(measure_decode(batch, ""));
  return all;
}

std::vector<ModelBench::Recording> ModelBench::recording(
    const std::vector<std::pair<std::string, std::string>>& modes) {
  std::vector<Recording> all;
  if (session_.model.moe_layers().empty()) return all;
  const int64_t n_prompt = bench_.prefill.front(), batch = bench_.batches.back();
  struct Times {
    double prefill, decode, many;
  };
  const auto measure = [&](const std::string& points) {
    const double one = measure_decode(1, points).seconds;
    return Times{measure_prefill(n_prompt, points).seconds, one,
                 batch > 1 ? measure_decode(batch, points).seconds : one};
  };
  // Off comes before and after: clocks wander.
  Times off = measure("");
  std::vector<Times> on;
  for (const auto& mode : modes) on.push_back(measure(mode.second));
  const Times again = measure("");
  off = {std::min(off.prefill, again.prefill), std::min(off.decode, again.decode), std::min(off.many, again.many)};
  for (size_t i = 0; i < modes.size(); ++i)
    all.push_back({modes[i].first, modes[i].second, n_prompt, batch, on[i].prefill / off.prefill - 1,
                   on[i].decode / off.decode - 1, on[i].many / off.many - 1});
  return all;
}

json::Value ModelBench::routed() {
  const Model& model = session_.model;
  RoutedBlock block;
  block.d_model = model.d_model;
  block.activation = model.activation;
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const Moe* moe = model.layers[l].moe();
    if (!moe) continue;
    block.moe = moe;
    block.layers.push_back(std::get<MoeWeights>(session_.weights.layers[l].ffn).experts());
  }
  json::Value list = json::Value::array();
  if (block.layers.empty() || bench_.routed_tokens_most == 0) return list;
  const ExpertMatrices& first = block.layers.front();
  for (const auto& matrices : {first.gate, first.up, first.down})
    block.expert_bytes += number(stored_bytes(matrices[0]));
  if (block.layers.size() > 8) block.layers.resize(8);
  const bool device = !session_.backend->shares_host_memory();
  Timer::Options times;
  if (!device) times.seconds = 0.3;
  Timer timer(*session_.backend, times);
  RandomMemory memory(true, size_t{16} << 20);
  for (const int64_t n : {int64_t{1}, int64_t{8}, int64_t{32}, int64_t{512}, int64_t{4096}}) {
    if (n > bench_.routed_tokens_most) break;
    bench_routed(*session_.backend, timer, memory, block, n, false, size_t{256} << 20, "", [&](const OpSpeed& speed) {
      json::Value line = json::Value::object();
      line.set("tokens", n)
          .set("seconds", speed.seconds)
          .set("gflops", speed.gflops())
          .set("gbytes_per_second", speed.gbytes())
          .set("share_of_limit", limits_.least_seconds(speed.flops, speed.bytes) / speed.seconds);
      list.push_back(std::move(line));
    });
  }
  return list;
}

json::Value ModelBench::trace_memory(int64_t n_tokens) {
  const int64_t limit = session_.model.max_positions;
  const int64_t length = std::min<int64_t>(limit > 0 ? limit : 4096, 512);
  measure_prefill(length, "");  // buffers and touched weights are there before the count begins
  const bool reset = reset_peak();
  const Resident before = resident_memory();
  const std::vector<Job> jobs = make_jobs((n_tokens + length - 1) / length, length, 0);
  TemporaryTrace directory;
  const std::unique_ptr<TraceWriter> trace = make_trace(std::string(default_points), directory.path.string());
  Progress progress("tracing", n_tokens, options_.quiet);
  RunEvents events;
  events.on_progress = [&](int64_t done) { progress.update(done); };
  const RunOptions run = session_.options;
  if (!run_jobs(forward_, jobs, run, events, trace.get())) throw Interrupted{};
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

json::Value ModelBench::to_json(const Prefill& prefill) const {
  json::Value line = json::Value::object();
  line.set("tokens", prefill.tokens)
      .set("chunk", prefill.chunk)
      .set("seconds", prefill.seconds)
      .set("tokens_per_second", number(prefill.tokens) / prefill.seconds)
      .set("gflops", prefill.flops / prefill.seconds * 1e-9)
      .set("gbytes_per_second", prefill.bytes / prefill.seconds * 1e-9)
      .set("share_of_limit", limits_.least_seconds(prefill.flops, prefill.bytes) / prefill.seconds);
  return line;
}

json::Value ModelBench::to_json(const Decode& decode) const {
  json::Value line = json::Value::object();
  line.set("batch", decode.batch)
      .set("context", decode.context)
      .set("seconds_per_step", decode.seconds)
      .set("tokens_per_second", number(decode.batch) / decode.seconds)
      .set("bytes_per_step", decode.bytes)
      .set("gbytes_per_second", decode.bytes / decode.seconds * 1e-9)
      .set("gflops", decode.flops / decode.seconds * 1e-9)
      .set("share_of_limit", limits_.least_seconds(decode.flops, decode.bytes) / decode.seconds);
  return line;
}

json::Value ModelBench::to_json(const Recording& recording) {
  json::Value line = json::Value::object();
  line.set("mode", recording.name)
      .set("points", recording.points)
      .set("prefill_tokens", recording.prefill_tokens)
      .set("prefill_cost", recording.prefill_cost)
      .set("decode_cost", recording.decode_cost)
      .set("batch", recording.batch)
      .set("batch_decode_cost", recording.batch_cost);
  return line;
}

}  // namespace signalbox
