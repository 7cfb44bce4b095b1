#include "engine/running_sequence.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace signalbox::engine {

RunningSequence::RunningSequence(JobGroup& group, size_t place, PrefixState* prefix, int64_t n_prefill,
                                 SequenceCache cache)
    : group(group),
      place(place),
      prefix(prefix),
      job(group.jobs[place]),
      planned(group.plan.jobs[place]),
      cache(std::move(cache)),
      n_prefill(n_prefill),
      n_run(this->cache.length()),
      hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_.get());
  result.index = job.index;
}

void RunningSequence::plan_prefill(int64_t rows, int64_t logits) {
  n_rows = std::min(n_prefill - n_run, rows);
  n_logits = 0;
  if (scores()) {
    const int64_t first = planned.first_logits, last = first + planned.n_logits;
    n_rows = std::min(n_rows, std::max<int64_t>(0, first - n_run) + logits);
    // A recording has rows behind the last whose logits are wanted; a step's logits are those of its last rows.
    if (n_run < last) n_rows = std::min(n_rows, last - n_run);
    const int64_t end = n_run + n_rows;
    if (n_rows > 0 && end <= last) n_logits = std::max<int64_t>(0, end - std::max(n_run, first));
  } else if (!prefix && n_run + n_rows == job.n_given() && job.max_new() > 0) {
    n_logits = 1;
  }
}

std::string RunningSequence::choose(int32_t id, const StopRule& stop) {
  if (id < 0)
    throw Error("logits",
                "expected finite numbers, found NaN or none that is finite (record \"" + job.prompt->id + "\")");
  generated.push_back(id);
  std::string fresh;
  const auto& ends = stop.stop_tokens;
  if (!stop.ignore_eos && std::find(ends.begin(), ends.end(), id) != ends.end()) {
    result.finish_reason = "eos";
  } else if (stream) {
    fresh = stream->push(id);
    append_text(fresh, stop);
  }
  if (result.finish_reason.empty() && static_cast<int64_t>(generated.size()) >= job.max_new())
    result.finish_reason = "length";
  finished = !result.finish_reason.empty();
  if (finished && stream && result.finish_reason != "stop") append_text(stream->finish(), stop);
  return fresh;
}

// Adds decoded text and looks for the first stop string; cuts the text there.
void RunningSequence::append_text(const std::string& fresh, const StopRule& stop) {
  if (fresh.empty()) return;
  size_t longest = 0;
  for (const std::string& one : stop.stop_strings) longest = std::max(longest, one.size());
  const size_t from = text.size() >= longest ? text.size() - longest : 0;
  text += fresh;
  size_t cut = std::string::npos;
  for (const std::string& one : stop.stop_strings) cut = std::min(cut, text.find(one, from));
  if (cut == std::string::npos) return;
  text.resize(cut);
  result.finish_reason = "stop";
}

bool RunningSequence::complete(bool recorded) const {
  if (prefilling()) return false;
  if (prefix || job.max_new() == 0) return true;
  return finished && (!recorded || n_run == job.n_given() + static_cast<int64_t>(generated.size()));
}

Result RunningSequence::take_result() {
  result.tokens = std::move(generated);
  result.text = std::move(text);
  if (result.finish_reason.empty()) result.finish_reason = "length";
  result.logits_hash = XXH3_64bits_digest(hash_.get());
  result.prefill_seconds += prefill_seconds();
  result.decode_seconds = std::chrono::duration<double>(Clock::now() - prefilled).count();
  return std::move(result);
}

}  // namespace signalbox::engine
