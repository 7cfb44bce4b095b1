#include "eval/score/applicable.h"

namespace signalbox::eval {

namespace {

void ask(const Scorer& scorer, std::span<const Record> records, Applicability& out) {
  out.scorer = &scorer;
  for (const Record& record : records) {
    const std::string lacking = scorer.lacks ? scorer.lacks(record) : std::string();
    out.records += lacking.empty();
    if (!lacking.empty() && out.lacking.empty()) out.lacking = lacking;
  }
  if (scorer.lacks_all && out.records > 0) out.lacking_all = scorer.lacks_all(records);
}

}  // namespace

Applicability applicability(const Scorer& scorer, std::span<const Record> records) {
  Applicability out;
  ask(scorer, records, out);
  return out;
}

std::vector<Applicability> applicable_scores(std::span<const Record> records) {
  std::vector<Applicability> out;
  for (const Scorer& scorer : scorers()) {
    out.emplace_back();
    try {
      ask(scorer, records, out.back());
    } catch (const Error& error) {
      out.back().refused = error.what();
    }
  }
  return out;
}

}  // namespace signalbox::eval
