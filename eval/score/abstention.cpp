// Does the text decline for want of knowledge, and should it?
#include <array>

#include "eval/score/phrases.h"
#include "eval/score/tables.h"

namespace signalbox::eval {

namespace {

std::optional<double> abstained_score(const Record&, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(abstained(sample.text));
}

template <bool strict>
std::optional<double> abstained_faitheval(const Record&, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(abstained_by_faitheval(sample.text, strict));
}

template <bool strict>
std::optional<double> conflict_faitheval(const Record&, const Sample& sample) {
  if (!sample.has_text) return std::nullopt;
  return as_score(conflict_by_faitheval(sample.text, strict));
}

std::string lacks_unanswerable(const Record& record) {
  return answerable_of(record) == false ? "" : "\"answerable\": false";
}
std::string lacks_answerable(const Record& record) {
  return answerable_of(record) == true ? "" : "\"answerable\": true";
}

std::optional<double> hallucinated(const Record& record, const Sample& sample) {
  if (!sample.has_text || answerable_of(record) != false) return std::nullopt;
  if (abstained(sample.text) || refused(sample.text)) return 0;
  if (is_truncated(sample) || is_blank_text(sample)) return std::nullopt;
  return 1;
}

std::optional<double> missed_answer(const Record& record, const Sample& sample) {
  if (!sample.has_text || answerable_of(record) != true) return std::nullopt;
  return as_score(abstained(sample.text));
}

constexpr std::array abstention_rows = {
    Scorer{.name = "abstained",
           .summary = "the text says that it does not know, by phrase rules; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = abstained_score},
    Scorer{.name = "hallucinated",
           .summary = "answers an unanswerable question; 0 or 1, undefined for text that is empty or cut off",
           .needs = Needs::text,
           .lacks = lacks_unanswerable,
           .score = hallucinated},
    Scorer{.name = "missed_answer",
           .summary = "abstains on an answerable question; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_answerable,
           .score = missed_answer},
    Scorer{.name = "abstained_faitheval",
           .summary = "FaithEval's loose rule for unanswerable contexts (\"not\" anywhere counts); 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = abstained_faitheval<false>},
    Scorer{.name = "abstained_faitheval_strict",
           .summary = "FaithEval's strict rule for unanswerable contexts (\"unknown\"); 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = abstained_faitheval<true>},
    Scorer{.name = "conflict_faitheval",
           .summary = "FaithEval's loose rule for inconsistent contexts; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = conflict_faitheval<false>},
    Scorer{.name = "conflict_faitheval_strict",
           .summary = "FaithEval's strict rule for inconsistent contexts (\"conflict\"); 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_nothing,
           .score = conflict_faitheval<true>},
};

}  // namespace

std::span<const Scorer> abstention_scorers() { return abstention_rows; }

}  // namespace signalbox::eval
