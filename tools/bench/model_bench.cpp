#include "tools/bench/model_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "engine/device_weights.h"
#include "tools/bench/op_bench.h"
#include "tools/bench/temporary_trace.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

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

double number(int64_t n) { return static_cast<double>(n); }

// Different experts of a layer that n_tokens tokens use which route evenly; the mean over layers.
double even_experts(const Model& model, int64_t n_tokens) {
  double sum = 0;
  for (const int64_t l : model.moe_layers()) {
    const Router& router = model.layers[static_cast<size_t>(l)].moe()->router;
    sum += number(router.n_experts) * even_share(router, n_tokens);
  }
  return model.moe_layers().empty() ? 0 : sum / number(static_cast<int64_t>(model.moe_layers().size()));
}

}  // namespace

int64_t resident_bytes() { return resident_memory().now; }

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
  const double row = model.tied_embeddings ? 0 : number(model.d_model);
  const double inner = number(count_parameters(model).active) - row - head;
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

ModelBench::ModelBench(Session& session, const ModelBenchOptions& bench, const MachineLimits& limits,
                       const Budget& budget)
    : session_(session),
      bench_(bench),
      limits_(limits),
      budget_(budget),
      watch_(*session.backend, session.model, session.weights),
      forward_(watch_, session.model, session.weights, 0) {}

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

int ModelBench::repeat(const std::function<void()>& measure) const {
  const double start = now();
  for (int made = 1;; ++made) {
    const double began = now();
    measure();
    const double taken = now() - began;
    if (made >= bench_.repeats || now() - start + taken > bench_.repeat_seconds || taken > budget_.left()) return made;
  }
}

ModelBench::Counted ModelBench::repeat_counted(const std::function<void()>& measure) {
  using Watch = WatchedBackend::Watch;
  const bool meanwhile = session_.backend->shares_host_memory();  // a glance at ids that lie there
  Counted counted;
  if (meanwhile) watch_.watch(Watch::experts);
  counted.repeats = repeat(measure);
  if (!meanwhile && !session_.model.moe_layers().empty()) {
    watch_.watch(Watch::experts);
    measure();
  }
  counted.runs = meanwhile ? counted.repeats : 1;
  counted.experts = watch_.experts();
  watch_.watch(Watch::nothing);
  return counted;
}

ModelBench::Prefill ModelBench::prefill(int64_t n_tokens) {
  Prefill result;
  result.tokens = n_tokens;
  result.chunk = bench_.chunk > 0 ? std::min(bench_.chunk, n_tokens) : n_tokens;
  result.seconds = INFINITY;
  const std::vector<Job> jobs = make_jobs(1, n_tokens, 1);
  RunOptions run = session_.options;
  run.ignore_eos = true;
  run.batch = 1;
  run.chunk = result.chunk;
  const auto measure = [&] {
    RunEvents events;
    double seconds = 0;
    events.on_done = [&](const Result& done) { seconds = done.prefill_seconds; };
    if (!run_jobs(forward_, jobs, run, events, nullptr)) throw Interrupted{};
    return seconds;
  };
  if (!session_.backend->shares_host_memory()) measure();  // on a device the first run takes memory and is not counted
  const Counted counted = repeat_counted([&] { result.seconds = std::min(result.seconds, measure()); });
  result.repeats = counted.repeats;
  seconds_per_given_ = result.seconds / number(n_tokens);
  const Model& model = session_.model;
  result.flops = forward_flops(model, 0, n_tokens, 1);
  int64_t forwards = 0;
  for (int64_t at = 0; at < n_tokens; at += result.chunk, ++forwards) {
    const int64_t n = std::min(result.chunk, n_tokens - at);
    result.bytes += weight_bytes_beside_experts(model, session_.weights, n);
    result.experts.bytes_even += weight_bytes(model, session_.weights, n);
    result.experts.even += even_experts(model, n);
  }
  result.experts.even /= number(forwards);
  int64_t calls = 0;
  for (const auto& [n, total] : counted.experts) {
    result.bytes += total.bytes / number(counted.runs);
    result.experts.counted += number(total.distinct);
    calls += total.calls;
  }
  if (calls > 0) result.experts.counted /= number(calls);
  return result;
}

int64_t ModelBench::decode_chunk() const {
  return bench_.chunk > 0 ? bench_.chunk : std::max<int64_t>(4096, bench_.context);
}

double ModelBench::decode_seconds(int64_t batch) const {
  const Model& model = session_.model;
  const double bytes = weight_bytes(model, session_.weights, batch);
  const double step = limits_.least_seconds(number(batch) * forward_flops(model, bench_.context, 1, 1), bytes);
  return prefill_seconds(batch * bench_.context) + number(bench_.n_new + warm_steps) * step;
}

ModelBench::Decode ModelBench::decode(int64_t batch) {
  const Model& model = session_.model;
  // Sequences whose prompts are done decode while the others' are read; only steps of all sequences are timed.
  const int64_t chunk = decode_chunk();
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
  const Counted counted = repeat_counted([&] {
    std::vector<std::vector<double>> times(jobs.size());
    RunEvents events;
    events.on_token = [&](const Job& job, int32_t, const std::string&) {
      times[static_cast<size_t>(job.index)].push_back(now());
    };
    if (!run_jobs(forward_, jobs, run, events, nullptr)) throw Interrupted{};
    double start = 0, end = INFINITY;
    for (const auto& of_job : times) {
      start = std::max(start, of_job.at(warm_steps));
      end = std::min(end, of_job.back());
    }
    int64_t steps = 0;
    for (const double time : times.front()) steps += time > start && time <= end;
    if (steps > 0) result.seconds = std::min(result.seconds, (end - start) / number(steps));
  });
  result.repeats = counted.repeats;
  if (std::isinf(result.seconds))
    throw Error("bench", "expected steps of all " + std::to_string(batch) + " sequences together, found none");
  result.context = bench_.context + warm_steps + waiting + bench_.n_new / 2;
  const double of_keys = number(batch) * kv_bytes(model, session_.backend->kv_dtype(), result.context);
  result.bytes = weight_bytes_beside_experts(model, session_.weights, batch) + of_keys;
  result.experts.bytes_even = weight_bytes(model, session_.weights, batch) + of_keys;
  result.experts.even = even_experts(model, batch);
  const auto found = counted.experts.find(batch);  // steps of all sequences
  if (found != counted.experts.end()) {
    const ExpertTotal& total = found->second;
    result.experts.counted = number(total.distinct) / number(total.calls);
    result.bytes += total.bytes / number(total.calls) * number(static_cast<int64_t>(model.moe_layers().size()));
  }
  result.flops = number(batch) * forward_flops(model, result.context - 1, 1, 1);
  return result;
}

PairedCosts ModelBench::recorded_prefill(int64_t n_tokens, const std::vector<std::string>& points,
                                         const std::function<bool(int64_t, double)>& go_on) {
  RecordingBench recording(
      forward_, [&](const std::string& of, const std::string& dir) { return make_trace(of, dir); }, points);
  const std::vector<Job> jobs = make_jobs(1, n_tokens, 1);
  return recording.prefill(jobs.front().prompt->tokens, bench_.chunk > 0 ? bench_.chunk : n_tokens, go_on);
}

PairedCosts ModelBench::recorded_decode(int64_t batch, const std::vector<std::string>& points,
                                        const std::function<bool(int64_t, double)>& go_on) {
  RecordingBench recording(
      forward_, [&](const std::string& of, const std::string& dir) { return make_trace(of, dir); }, points);
  std::vector<std::vector<int32_t>> prompts;
  for (const Job& job : make_jobs(batch, bench_.context, 1)) prompts.push_back(job.prompt->tokens);
  return recording.decode(prompts, decode_chunk(), go_on);
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
  prefill(length);  // buffers and touched weights are there before the count begins
  const bool reset = reset_peak();
  const Resident before = resident_memory();
  const std::vector<Job> jobs = make_jobs((n_tokens + length - 1) / length, length, 0);
  TemporaryTrace directory;
  const std::unique_ptr<TraceWriter> trace = make_trace(std::string(default_points), directory.path.string());
  Progress progress("tracing", n_tokens, bench_.quiet, "tokens");
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

void ModelBench::set_experts(json::Value& line, const ExpertsRead& experts) const {
  if (session_.model.moe_layers().empty()) return;
  int64_t most = 0;
  for (const int64_t l : session_.model.moe_layers())
    most = std::max<int64_t>(most, session_.model.layers[static_cast<size_t>(l)].moe()->router.n_experts);
  line.set("experts", most)
      .set("experts_read", experts.counted)
      .set("experts_read_if_even", experts.even)
      .set("bytes_if_even", experts.bytes_even);
}

json::Value ModelBench::to_json(const Prefill& prefill) const {
  json::Value line = json::Value::object();
  line.set("tokens", prefill.tokens)
      .set("chunk", prefill.chunk)
      .set("repeats", int64_t{prefill.repeats})
      .set("seconds", prefill.seconds)
      .set("tokens_per_second", number(prefill.tokens) / prefill.seconds)
      .set("gflops", prefill.flops / prefill.seconds * 1e-9)
      .set("bytes", prefill.bytes)
      .set("gbytes_per_second", prefill.bytes / prefill.seconds * 1e-9)
      .set("share_of_limit", limits_.least_seconds(prefill.flops, prefill.bytes) / prefill.seconds);
  set_experts(line, prefill.experts);
  return line;
}

json::Value ModelBench::to_json(const Decode& decode) const {
  json::Value line = json::Value::object();
  line.set("batch", decode.batch)
      .set("context", decode.context)
      .set("repeats", int64_t{decode.repeats})
      .set("seconds_per_step", decode.seconds)
      .set("tokens_per_second", number(decode.batch) / decode.seconds)
      .set("bytes_per_step", decode.bytes)
      .set("gbytes_per_second", decode.bytes / decode.seconds * 1e-9)
      .set("gflops", decode.flops / decode.seconds * 1e-9)
      .set("share_of_limit", limits_.least_seconds(decode.flops, decode.bytes) / decode.seconds);
  set_experts(line, decode.experts);
  return line;
}

json::Value load_json(const WeightMemory& memory) {
  return json::Value::object()
      .set("weights", name_of(memory.kind))
      .set("bytes", memory.bytes)
      .set("huge_bytes", memory.huge_bytes)
      .set("seconds", memory.seconds);
}

std::string load_text(const WeightMemory& memory) {
  if (memory.kind == WeightMemory::Kind::small) return "";
  char text[160];
  std::snprintf(text, sizeof text, "weights %s: %.2f GB, %.2f GB of them in 2 MiB pages, in %.2f s\n",
                name_of(memory.kind), number(memory.bytes) * 1e-9, number(memory.huge_bytes) * 1e-9, memory.seconds);
  return text;
}

}  // namespace signalbox::tools
