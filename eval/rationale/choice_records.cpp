#include "eval/rationale/choice_records.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "eval/rationale/word_places.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

std::string choice_name(size_t choice) {
  return choice < 26 ? std::string(1, static_cast<char>('A' + choice)) : "choice " + std::to_string(choice + 1);
}

int64_t ChoiceRecord::n_gold() const { return std::count(gold.begin(), gold.end(), true); }

ChoiceRecord choice_record(const Record& record, const EncodeSetup& setup) {
  const json::Ref source(record.source, record.where);
  if (record.kind == Record::Kind::tokens) throw Error(record.where, "expected a prompt or messages, found tokens");
  ChoiceRecord made;
  made.id = record.id;
  made.where = record.where;
  const EncodedText text = record.kind == Record::Kind::prompt ? encode_prompt(record.prompt, setup)
                                                               : encode_messages(record.messages, setup);
  made.tokens = text.tokens;
  const std::string document = source.at("document").string();
  std::vector<std::string> words;
  size_t begin = 0;
  for (size_t i = 0; i <= document.size(); ++i) {
    if (i < document.size() && document[i] != ' ') continue;
    if (i > begin) words.push_back(document.substr(begin, i - begin));
    begin = i + 1;
  }
  const size_t at = text.text.find(document);
  if (words.empty() || at == std::string::npos)
    throw Error(record.where + ": document", "expected text that stands in the prompt, found none of it");
  const std::vector<CharRange> places = places_of_words(record.where, text.text, at, words);
  made.words.resize(words.size());
  for (size_t t = 0; t < text.tokens.size(); ++t)
    if (const int32_t word = word_of(text.offsets[t], places); word >= 0)
      made.words[static_cast<size_t>(word)].push_back(static_cast<int64_t>(t));
  made.gold.assign(words.size(), false);
  for (const json::Ref& range : source.at("evidence").items()) {
    if (range.length() != 2) range.fail("expected [start, end), found " + std::to_string(range.length()) + " items");
    const int64_t start = range[0].integer(0, made.n_words() - 1), end = range[1].integer(start + 1, made.n_words());
    for (int64_t w = start; w < end; ++w) made.gold[static_cast<size_t>(w)] = true;
  }
  if (made.n_gold() == 0) throw Error(record.where + ": evidence", "expected at least one range, found none");
  std::set<std::string> texts;
  for (const json::Ref& choice : source.at("choices").items()) {
    made.names.push_back(choice_name(made.names.size()));
    made.choices.push_back(encode_target(choice.string(), setup));
    if (made.choices.back().empty() || !texts.insert(choice.string()).second)
      choice.fail("expected a text of its own with at least one token, found " + in_quotes(choice.string()));
  }
  if (made.choices.size() < 2)
    source.at("choices").fail("expected at least two, found " + std::to_string(made.choices.size()));
  made.choice = source.at("choice").integer(0, static_cast<int64_t>(made.choices.size()) - 1);
  return made;
}

void check_masking(const Session& session, const std::vector<ChoiceRecord>& records) {
  int64_t longest = 0;
  for (const ChoiceRecord& record : records)
    for (const auto& choice : record.choices)
      longest = std::max(longest, static_cast<int64_t>(record.tokens.size() + choice.size()));
  for (size_t l = 0; l < session.model.layers.size(); ++l)
    if (const Gqa* gqa = std::get_if<Gqa>(&session.model.layers[l].attention);
        gqa && gqa->window > 0 && gqa->window < longest)
      throw Error("--removal mask", "expected no sliding window below the longest record's " + std::to_string(longest) +
                                        " tokens (hidden tokens would leave room in it), found " +
                                        std::to_string(gqa->window) + " in layer " + std::to_string(l));
}

ClassScores ChoiceRuns::shares(const std::vector<double>& sums) const {
  const double top = *std::max_element(sums.begin(), sums.end());
  double total = 0;
  for (const double sum : sums) total += std::exp(sum - top);
  ClassScores scores;
  for (size_t c = 0; c < sums.size(); ++c) scores.emplace_back(record_.names[c], std::exp(sums[c] - top) / total);
  return scores;
}

std::vector<ClassScores> ChoiceRuns::run(const std::vector<Text>& texts) {
  std::vector<Job> jobs;
  const size_t n_choices = record_.choices.size();
  for (const Text& text : texts) {
    const auto prefix = std::make_shared<const Prompt>(record_.id, text.tokens);
    for (const auto& choice : record_.choices) {
      std::vector<int32_t> tokens = text.tokens;
      tokens.insert(tokens.end(), choice.begin(), choice.end());
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = std::make_shared<const Prompt>(record_.id, std::move(tokens));
      job.prefix = prefix;
      job.plan = text.plan;
      job.task = Score{static_cast<int64_t>(text.tokens.size()), {}};
      session_.check(record_.where, job);
      jobs.push_back(std::move(job));
    }
  }
  std::vector<double> sums(jobs.size(), 0);
  RunEvents events;
  events.on_done = [&](const Result& result) {
    double& sum = sums[static_cast<size_t>(result.index)];
    for (const double logprob : result.logprobs) sum += logprob;
  };
  RunOptions options = session_.options;
  options.interrupted = nullptr;  // a record is done whole
  session_.run(jobs, options, events, nullptr);
  std::vector<ClassScores> scores;
  for (size_t i = 0; i < texts.size(); ++i)
    scores.push_back(shares({sums.begin() + static_cast<std::ptrdiff_t>(i * n_choices),
                             sums.begin() + static_cast<std::ptrdiff_t>((i + 1) * n_choices)}));
  return scores;
}

ClassScores ChoiceRuns::run_masked(const Text& text) {
  const auto n = static_cast<int64_t>(text.tokens.size());
  int64_t longest = 0;
  for (const auto& choice : record_.choices) longest = std::max(longest, static_cast<int64_t>(choice.size()));
  KvPool pool(
      *session_.backend, session_.model,
      KvPool::blocks_for(n) + static_cast<int64_t>(record_.choices.size() + 1) * (KvPool::blocks_for(longest) + 1));
  Forward forward = session_.forward(0);
  SequenceCache shared(pool);
  const std::span<const int32_t> given(text.tokens);
  std::vector<int32_t> places = text.places;
  if (n > 1) {
    Batch batch;
    batch.append(shared, nullptr, 0, given.subspan(0, static_cast<size_t>(n - 1)), {}, n, 0);
    batch.places.assign(places.begin(), places.begin() + (n - 1));
    forward.run(batch, nullptr);
  }
  std::vector<double> sums;
  for (const auto& choice : record_.choices) {
    SequenceCache sequence = shared.fork(n - 1);
    std::vector<int32_t> tokens = {given.back()};
    tokens.insert(tokens.end(), choice.begin(), choice.end() - 1);
    Batch batch;
    batch.append(sequence, nullptr, 0, tokens, {}, n, static_cast<int64_t>(tokens.size()));
    batch.targets = choice;
    batch.places = places;
    for (size_t i = 0; i + 1 < tokens.size(); ++i)
      batch.places.push_back(static_cast<int32_t>(record_.tokens.size() + i));
    const Outputs outputs = forward.run(batch, nullptr);
    double sum = 0;
    for (const double logprob : outputs.log_probs) sum += logprob;
    sums.push_back(sum);
  }
  return shares(sums);
}

std::vector<ClassScores> ChoiceRuns::without(Removal how, const std::vector<std::vector<bool>>& out) {
  std::vector<Text> texts;
  std::vector<std::vector<bool>> asked;
  for (const std::vector<bool>& words : out) {
    const auto key = std::pair(how, words);
    if (known_.contains(key) || std::find(asked.begin(), asked.end(), words) != asked.end()) continue;
    std::vector<bool> gone(record_.tokens.size(), false);
    for (size_t w = 0; w < words.size(); ++w)
      if (words[w])
        for (const int64_t t : record_.words[w]) gone[static_cast<size_t>(t)] = true;
    Text text;
    for (size_t t = 0; t < gone.size(); ++t)
      if (!gone[t]) {
        text.tokens.push_back(record_.tokens[t]);
        text.places.push_back(static_cast<int32_t>(t));
      }
    if (text.tokens.empty()) throw Error(record_.where, "expected a token outside the document, found none");
    if (how == Removal::mask)
      known_[key] = run_masked(text);
    else
      texts.push_back(std::move(text));
    asked.push_back(words);
  }
  if (how == Removal::remove) {
    const std::vector<ClassScores> made = run(texts);
    for (size_t i = 0; i < made.size(); ++i) known_[{how, asked[i]}] = made[i];
  }
  std::vector<ClassScores> scores;
  for (const std::vector<bool>& words : out) scores.push_back(known_.at({how, words}));
  return scores;
}

std::vector<ClassScores> ChoiceRuns::under(const std::vector<std::shared_ptr<const EditPlan>>& plans) {
  std::vector<Text> texts;
  for (const auto& plan : plans) texts.push_back({record_.tokens, {}, plan});
  return run(texts);
}

size_t predicted_class(const ClassScores& scores) {
  const auto top =
      std::max_element(scores.begin(), scores.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return static_cast<size_t>(top - scores.begin());
}

}  // namespace signalbox::eval
