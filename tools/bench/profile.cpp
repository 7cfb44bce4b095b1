// Which ops a step spends its time in.
#include <algorithm>
#include <cstdio>

#include "tools/bench/model_bench.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

namespace {

constexpr int64_t profiled_steps = 16, steps_before = 2;  // of decoding

double of(const json::Value& line, const char* key) { return line.find(key)->real(); }

// Ops of one step, the longest first.
json::Value ops_json(const std::map<std::string, OpTotal>& ops, int64_t steps, double seconds,
                     const MachineLimits& limits) {
  std::vector<std::pair<std::string, OpTotal>> sorted(ops.begin(), ops.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const double n = static_cast<double>(steps);
  json::Value list = json::Value::array();
  for (const auto& [name, total] : sorted) {
    json::Value line = json::Value::object();
    line.set("op", name)
        .set("calls", static_cast<double>(total.calls) / n)
        .set("seconds", total.seconds / n)
        .set("share", total.seconds / n / seconds);
    const bool told = total.bytes > 0;
    line.set("flops", told ? json::Value(total.flops / n) : json::Value())
        .set("bytes", told ? json::Value(total.bytes / n) : json::Value())
        .set("share_of_limit",
             told ? json::Value(limits.least_seconds(total.flops, total.bytes) / total.seconds) : json::Value());
    list.push_back(std::move(line));
  }
  return list;
}

json::Value profile_json(json::Value line, const std::map<std::string, OpTotal>& ops, int64_t steps, double seconds,
                         const MachineLimits& limits) {
  double in_ops = 0;
  for (const auto& [name, total] : ops) in_ops += total.seconds;
  in_ops /= static_cast<double>(steps);
  return line.set("seconds", seconds)
      .set("seconds_in_ops", in_ops)
      .set("seconds_outside", seconds - in_ops)
      .set("ops", ops_json(ops, steps, seconds, limits));
}

}  // namespace

json::Value ModelBench::profile_prefill(int64_t n_tokens) {
  RunOptions run = session_.options;
  run.ignore_eos = true;
  run.batch = 1;
  run.chunk = bench_.chunk > 0 ? std::min(bench_.chunk, n_tokens) : n_tokens;
  double seconds = 0;
  RunEvents events;
  events.on_done = [&](const Result& done) { seconds = done.prefill_seconds; };
  watch_.watch(WatchedBackend::Watch::ops);
  const bool whole = run_jobs(forward_, make_jobs(1, n_tokens, 1), run, events, nullptr);
  const std::map<std::string, OpTotal> ops = watch_.ops();
  watch_.watch(WatchedBackend::Watch::nothing);
  if (!whole) throw Interrupted{};
  json::Value line = json::Value::object();
  line.set("phase", "prefill").set("tokens", n_tokens);
  return profile_json(std::move(line), ops, 1, seconds, limits_);
}

json::Value ModelBench::profile_decode(int64_t batch) {
  const int64_t chunk = decode_chunk(), waiting = (batch * bench_.context + chunk - 1) / chunk;
  RunOptions run = session_.options;
  run.ignore_eos = true;
  run.batch = batch;
  run.chunk = chunk;
  // From a step of all sequences to another: tokens are told when a step is done.
  const int64_t first = waiting + steps_before;
  std::vector<int64_t> told(static_cast<size_t>(batch));
  std::map<std::string, OpTotal> ops;
  double start = 0, seconds = 0;
  int64_t steps = 0;
  RunEvents events;
  events.on_token = [&](const Job& job, int32_t, const std::string&) {
    const int64_t n = ++told[static_cast<size_t>(job.index)];
    if (job.index != 0) return;
    if (n == first) {
      watch_.watch(WatchedBackend::Watch::ops);
      start = now();
    } else if (n > first && n <= first + profiled_steps) {
      seconds = now() - start;
      steps = n - first;
      ops = watch_.ops();
    }
  };
  const bool whole =
      run_jobs(forward_, make_jobs(batch, bench_.context, first + profiled_steps + 1), run, events, nullptr);
  watch_.watch(WatchedBackend::Watch::nothing);
  if (!whole) throw Interrupted{};
  json::Value line = json::Value::object();
  line.set("phase", "decode").set("batch", batch).set("context", bench_.context + first + profiled_steps / 2);
  line.set("steps", steps);
  return profile_json(std::move(line), ops, steps, seconds / static_cast<double>(steps), limits_);
}

std::string profile_text(const json::Value& profile) {
  char text[256];
  const bool prefill = profile.find("phase")->string() == "prefill";
  const double seconds = of(profile, "seconds"), outside = of(profile, "seconds_outside");
  std::string head = prefill ? "prefill of " + std::to_string(profile.find("tokens")->integer()) + " tokens"
                             : "a step of decoding at batch " + std::to_string(profile.find("batch")->integer());
  std::snprintf(text, sizeof text, "\n%s, op by op: %.3f ms, of which %.3f ms (%.1f %%) outside of ops\n", head.c_str(),
                1e3 * seconds, 1e3 * outside, 100 * outside / seconds);
  std::string out = text;
  std::snprintf(text, sizeof text, "  %-24s %8s %12s %8s %10s %9s %7s\n", "op", "calls", "ms", "share", "GFLOP/s",
                "GB/s", "limit");
  out += text;
  for (const json::Value& op : profile.find("ops")->items()) {
    std::snprintf(text, sizeof text, "  %-24s %8.1f %12.4f %6.1f %%", op.find("op")->string().c_str(), of(op, "calls"),
                  1e3 * of(op, "seconds"), 100 * of(op, "share"));
    out += text;
    if (!op.find("bytes")->is_null()) {
      std::snprintf(text, sizeof text, " %10.1f %9.2f %5.0f %%", 1e-9 * of(op, "flops") / of(op, "seconds"),
                    1e-9 * of(op, "bytes") / of(op, "seconds"), 100 * of(op, "share_of_limit"));
      out += text;
    }
    out += "\n";
  }
  return out;
}

}  // namespace signalbox::tools
