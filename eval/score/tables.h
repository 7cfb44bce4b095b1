// The tables that make up scorers(), one a theme, and what their rows share.
#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <tuple>

#include "base/namespaces.h"
#include "eval/score/fields.h"
#include "eval/score/scorer.h"

namespace signalbox::eval {

std::span<const Scorer> correctness_scorers();
std::span<const Scorer> groundedness_scorers();
std::span<const Scorer> abstention_scorers();
std::span<const Scorer> refusal_scorers();
std::span<const Scorer> degradation_scorers();
std::span<const Scorer> stability_scorers();

inline double as_score(bool value) { return value ? 1 : 0; }

// What more than one table's records may lack.
inline std::string lacks_nothing(const Record&) { return {}; }
inline std::string lacks_answers(const Record& record) { return has_answers(record) ? "" : "answers"; }

// Cut at the token limit: what the text does not say, it might have said later.
inline bool is_truncated(const Sample& sample) { return sample.finish_reason == "length"; }
bool is_blank_text(const Sample& sample);

// Whether the final answer of the text is one of the record's (of their final answers).
bool final_answer_right(const Record& record, const Sample& sample);

// The baseline's samples by (record, seed, sample).
class BaselineSamples {
 public:
  explicit BaselineSamples(const SampleGroup& group);
  const Sample* of(const Sample& sample) const;  // null when there is none

 private:
  std::map<std::tuple<int64_t, uint64_t, int64_t>, const Sample*> samples_;
};

}  // namespace signalbox::eval
