// What judges say of texts: each text of a record is shown to a judge once, alone or in a batch with others.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "eval/score/judge.h"

namespace signalbox::eval {

// Scores of one text by the names of the judges, in their order.
using Judged = std::vector<std::pair<std::string, double>>;

class Verdicts {
 public:
  explicit Verdicts(std::vector<JudgeCommand> judges) : judges_(std::move(judges)), pending_(judges_.size()) {}

  // Calls `then` with what the judges say of the text of record number `record`: at once where all of them have said it
  // or are asked one text at a time; else when their batch has been full, or in flush(), in the order of the calls as
  // far as their judges have spoken. Throws Error as judges do; what waits then still waits.
  void judge(int64_t record, const JudgedText& text, std::function<void(Judged)> then);

  // Shows all that waits. Batches that are not full are run as they are.
  void flush();

 private:
  using Key = std::tuple<size_t, int64_t, std::string>;  // judge, record, text
  struct Waiting {
    int64_t record = 0;
    std::string text;
    std::function<void(Judged)> then;
  };
  bool known(int64_t record, const std::string& text) const;
  Judged scores(int64_t record, const std::string& text) const;
  void run_batch(size_t judge);
  void release();

  std::vector<JudgeCommand> judges_;
  std::map<Key, double> scores_;
  std::set<Key> asked_;                                               // of judges of batches
  std::vector<std::vector<std::pair<int64_t, JudgedText>>> pending_;  // [judges] record and text, each once
  std::vector<Waiting> waiting_;
};

}  // namespace signalbox::eval
