#include "train/upcycle/texts.h"

#include <xxhash.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/files.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"

namespace signalbox::train {

namespace {

// [job] hashes of its runs of tokens.
std::vector<std::vector<uint64_t>> run_hashes(const std::vector<Job>& jobs) {
  std::vector<std::vector<uint64_t>> out(jobs.size());
  for (size_t j = 0; j < jobs.size(); ++j) {
    const std::vector<int32_t>& tokens = jobs[j].prompt->tokens;
    for (size_t i = 0; i + shared_run <= tokens.size(); ++i)
      out[j].push_back(XXH3_64bits(tokens.data() + i, shared_run * sizeof(int32_t)));
    // A shorter one counts whole.
    if (tokens.size() < shared_run) out[j].push_back(XXH3_64bits(tokens.data(), tokens.size() * sizeof(int32_t)));
  }
  return out;
}

// [b] the first job of `a` that has a run in common with it, or -1.
std::vector<int64_t> sharing(const std::vector<std::vector<uint64_t>>& a, const std::vector<std::vector<uint64_t>>& b) {
  std::unordered_map<uint64_t, int64_t> first;
  for (size_t j = 0; j < a.size(); ++j)
    for (const uint64_t hash : a[j]) first.emplace(hash, static_cast<int64_t>(j));
  std::vector<int64_t> out(b.size(), -1);
  for (size_t j = 0; j < b.size(); ++j)
    for (const uint64_t hash : b[j])
      if (const auto found = first.find(hash); found != first.end() && out[j] < 0) out[j] = found->second;
  return out;
}

std::string kind_of(const Record& record) {
  return !record.domain.empty() ? record.domain : !record.condition.empty() ? record.condition : "text";
}

// A fifth of the examples of every kind goes to `evaluation`.
void split(std::vector<Record>& data, std::vector<Record>& evaluation, uint64_t seed) {
  const std::vector<size_t> example_of = independent_examples(data);
  std::map<std::string, std::vector<size_t>> examples;  // by kind
  size_t n = 0;
  for (size_t i = 0; i < data.size(); ++i)
    if (example_of[i] == i) {
      examples[kind_of(data[i])].push_back(i);
      ++n;
    }
  if (n < 2)
    throw Error("--data",
                "expected at least two examples, one of which judges what is made of the other (or --eval), found " +
                    std::to_string(n));
  std::set<size_t> chosen;
  for (auto& [kind, of_kind] : examples) {
    Dice(seed, "upcycle split " + kind).shuffle(of_kind);
    of_kind.resize(of_kind.size() < 2 ? 0 : std::max<size_t>(1, of_kind.size() / 5));
    chosen.insert(of_kind.begin(), of_kind.end());
  }
  if (chosen.empty()) chosen.insert(example_of.front());  // each kind is one example
  std::vector<Record> rest;
  for (size_t i = 0; i < data.size(); ++i)
    (chosen.contains(example_of[i]) ? evaluation : rest).push_back(std::move(data[i]));
  data = std::move(rest);
}

std::vector<Record> taken(std::vector<Record>& from, const std::vector<int64_t>& shares) {
  std::vector<Record> out, rest;
  for (size_t i = 0; i < from.size(); ++i) (shares[i] >= 0 ? out : rest).push_back(std::move(from[i]));
  from = std::move(rest);
  return out;
}

}  // namespace

UpcycleTexts upcycle_texts(const Session& session, std::vector<Record> data,
                           std::optional<std::vector<Record>> evaluation, uint64_t seed) {
  UpcycleTexts texts;
  texts.calibration = std::move(data);
  const bool given = evaluation.has_value();
  if (given) {
    texts.evaluation = std::move(*evaluation);
  } else {
    split(texts.calibration, texts.evaluation, seed);
  }
  while (true) {
    texts.calibration_jobs = make_jobs(session, texts.calibration, Generate{0, {}}, nullptr);
    texts.evaluation_jobs = make_jobs(session, texts.evaluation, Generate{0, {}}, nullptr);
    const std::vector<int64_t> shares =
        sharing(run_hashes(texts.calibration_jobs.jobs), run_hashes(texts.evaluation_jobs.jobs));
    const auto found = std::find_if(shares.begin(), shares.end(), [](int64_t j) { return j >= 0; });
    if (found == shares.end()) break;
    const auto bad = static_cast<size_t>(found - shares.begin());
    if (given)
      throw Error(texts.evaluation[bad].where, "expected no " + std::to_string(shared_run) +
                                                   " tokens in a row of a record that the model is carved "
                                                   "on, found some of " +
                                                   texts.calibration[static_cast<size_t>(*found)].where);
    std::vector<Record> moved = taken(texts.evaluation, shares);
    texts.moved += static_cast<int64_t>(moved.size());
    for (Record& record : moved) texts.calibration.push_back(std::move(record));
    if (texts.evaluation.empty())
      throw Error("--data",
                  "expected records that have no " + std::to_string(shared_run) +
                      " tokens in a row in common, found that those of the held-out fifth all do (or --eval)");
  }
  if (texts.calibration.empty() || texts.evaluation.empty())
    throw Error(given ? "--data, --eval" : "--data", "expected records in both, found none in one");
  for (const Record& record : texts.evaluation) {
    const std::string kind = kind_of(record);
    const auto place = std::find(texts.kinds.begin(), texts.kinds.end(), kind);
    texts.kind_of.push_back(static_cast<size_t>(place - texts.kinds.begin()));
    if (place == texts.kinds.end()) texts.kinds.push_back(kind);
  }
  return texts;
}

bool write_own_text(const Session& session, int32_t first, int64_t records, int64_t length, uint64_t seed,
                    const RunOptions& run, const std::function<void(int64_t, int64_t)>& progress,
                    const std::filesystem::path& file) {
  Sampling sampling;
  sampling.temperature = 1;
  sampling.seed = seed;
  const auto rule = std::make_shared<StopRule>();
  rule->ignore_eos = true;
  std::vector<Job> jobs;
  for (int64_t i = 0; i < records; ++i) {
    Job job;
    job.index = i;
    job.prompt = std::make_shared<Prompt>("own-" + std::to_string(i), std::vector<int32_t>(1, first));
    job.task = Generate{length - 1, sampling, rule};
    jobs.push_back(std::move(job));
  }
  std::vector<std::vector<int32_t>> texts(jobs.size());
  RunEvents events;
  events.on_done = [&](Result result) { texts[static_cast<size_t>(result.index)] = std::move(result.tokens); };
  events.on_progress = [&](int64_t done) { progress(done, records * length); };
  RunOptions wide = run;
  wide.batch = records;
  if (!session.run(jobs, wide, events, nullptr)) return false;
  std::string lines;
  for (size_t i = 0; i < jobs.size(); ++i) {
    json::Value tokens = json::Value::array();
    tokens.push_back(int64_t{first});
    for (const int32_t token : texts[i]) tokens.push_back(int64_t{token});
    lines += json::dump(json::Value::object().set("id", jobs[i].prompt->id).set("tokens", std::move(tokens))) + "\n";
  }
  write_file_atomically(file, lines);
  return true;
}

}  // namespace signalbox::train
