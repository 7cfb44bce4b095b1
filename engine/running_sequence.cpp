#include "engine/running_sequence.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace signalbox::engine {

void add_edits(EditCounts& counts, const TokenEdits& token) {
  counts.edited_tokens += token.layers > 0;
  counts.edited_slots += token.changed;
  counts.slots += token.added;
}

namespace {

int64_t prefix_tokens(const Job& job) {
  return static_cast<int64_t>((job.prefix ? *job.prefix : *job.prompt).tokens.size());
}

}  // namespace

void count_tokens(Result& result, const Job& job, const PlannedJob& planned, int64_t n_later, int64_t slots_a_token) {
  const int64_t in_prefix = std::min(prefix_tokens(job), planned.n_needed);
  const int64_t behind = planned.n_needed - in_prefix + n_later;
  result.prefix_edits += {in_prefix, 0, in_prefix * slots_a_token, 0};
  result.later_edits += {behind, 0, behind * slots_a_token, 0};
}

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

void RunningSequence::take_edits(std::span<const TokenEdits> rows) {
  if (!edits || rows.empty()) return;
  if (prefix) prefix->edits.resize(static_cast<size_t>(prefix->length));
  for (int64_t i = 0; i < n_rows; ++i) {
    const int64_t position = n_run + i;
    const TokenEdits& row = rows[static_cast<size_t>(i)];
    if (prefix) {
      prefix->edits[static_cast<size_t>(position)] = row;
    } else if (position < job.n_given() ? position < planned.n_needed : !finished) {
      add_edits(position < prefix_tokens(job) ? result.prefix_edits : result.later_edits, row);
    }
  }
}

void RunningSequence::start_from(const PrefixState& state) {
  for (int64_t p = 0; p < std::min<int64_t>(n_run, static_cast<int64_t>(state.edits.size())); ++p)
    add_edits(result.prefix_edits, state.edits[static_cast<size_t>(p)]);
}

void RunningSequence::plan_prefill(int64_t rows, int64_t logits) {
  n_rows = std::min(n_prefill - n_run, rows);
  n_logits = 0;
  if (scores() || (!prefix && planned.n_logits > 0)) {
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

void RunningSequence::check_choice(int32_t id, const Job& job) {
  if (id < 0)
    throw Error("logits",
                "expected finite numbers, found NaN or none that is finite (record \"" + job.prompt->id + "\")");
}

std::string RunningSequence::choose(int32_t id, const StopRule& stop) {
  check_choice(id, job);
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

Result RunningSequence::take_result(int64_t slots_a_token) {
  count_tokens(result, job, planned, std::max<int64_t>(0, static_cast<int64_t>(generated.size()) - 1), slots_a_token);
  result.tokens = std::move(generated);
  result.text = std::move(text);
  if (result.finish_reason.empty()) result.finish_reason = "length";
  result.logits_hash = XXH3_64bits_digest(hash_.get());
  result.prefill_seconds += prefill_seconds();
  result.decode_seconds = std::chrono::duration<double>(Clock::now() - prefilled).count();
  return std::move(result);
}

}  // namespace signalbox::engine
