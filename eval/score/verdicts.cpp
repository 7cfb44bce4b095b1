#include "eval/score/verdicts.h"

namespace signalbox::eval {

bool Verdicts::known(int64_t record, const std::string& text) const {
  for (size_t j = 0; j < judges_.size(); ++j)
    if (!scores_.contains({j, record, text})) return false;
  return true;
}

Judged Verdicts::scores(int64_t record, const std::string& text) const {
  Judged out;
  for (size_t j = 0; j < judges_.size(); ++j) out.emplace_back(judges_[j].name, scores_.at({j, record, text}));
  return out;
}

void Verdicts::judge(int64_t record, const JudgedText& text, std::function<void(Judged)> then) {
  bool full = false;
  for (size_t j = 0; j < judges_.size(); ++j) {
    if (scores_.contains({j, record, text.text})) continue;
    if (judges_[j].batch == 0) {
      const double score = run_judge(judges_[j], text.record, text.prompt, text.text);
      scores_[{j, record, text.text}] = score;
      continue;
    }
    auto& pending = pending_[j];
    if (asked_.insert({j, record, text.text}).second) pending.emplace_back(record, text);
    full = full || static_cast<int64_t>(pending.size()) >= judges_[j].batch;
  }
  if (known(record, text.text)) return then(scores(record, text.text));
  waiting_.push_back({record, text.text, std::move(then)});
  if (!full) return;
  for (size_t j = 0; j < judges_.size(); ++j)
    if (judges_[j].batch > 0 && static_cast<int64_t>(pending_[j].size()) >= judges_[j].batch) run_batch(j);
  release();
}

void Verdicts::flush() {
  for (size_t j = 0; j < judges_.size(); ++j)
    if (!pending_[j].empty()) run_batch(j);
  release();
}

void Verdicts::run_batch(size_t judge) {
  std::vector<JudgedText> texts;
  for (const auto& [record, text] : pending_[judge]) texts.push_back(text);
  const std::vector<double> found = run_judge_batch(judges_[judge], texts);
  for (size_t i = 0; i < found.size(); ++i) scores_[{judge, pending_[judge][i].first, texts[i].text}] = found[i];
  pending_[judge].clear();
}

void Verdicts::release() {
  std::vector<Waiting> ready, rest;
  for (Waiting& one : waiting_) (known(one.record, one.text) ? ready : rest).push_back(std::move(one));
  waiting_ = std::move(rest);
  for (Waiting& one : ready) one.then(scores(one.record, one.text));
}

}  // namespace signalbox::eval
