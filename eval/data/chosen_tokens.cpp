#include "eval/data/chosen_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "base/near_names.h"

namespace signalbox::eval {

ChosenTokens::ChosenTokens(const TokenChoice& choice, const std::vector<EncodedRecord>& records,
                           const std::vector<std::string>& span_names) {
  if (!choice.span.empty() && std::find(span_names.begin(), span_names.end(), choice.span) == span_names.end())
    throw Error("--span", wrong_name("a span of the records", choice.span, span_names));
  for (const EncodedRecord& record : records) {
    const auto n = static_cast<int64_t>(record.prompt->tokens.size());
    std::vector<uint8_t>& own = chosen_.emplace_back(static_cast<size_t>(n), choice.span.empty() ? 1 : 0);
    if (!choice.span.empty())
      for (const SpanTokens& span : record.spans)
        if (span.name == choice.span)
          std::fill(own.begin() + std::min(span.begin, n), own.begin() + std::min(span.end, n), uint8_t{1});
    std::fill(own.begin(), own.begin() + std::min(choice.begin, n), uint8_t{0});
    std::fill(own.begin() + std::min(choice.end, n), own.end(), uint8_t{0});
    const int64_t last = last_of(static_cast<int64_t>(chosen_.size()) - 1);
    if (choice.last && last >= 0) std::fill(own.begin(), own.begin() + last, uint8_t{0});
    n_tokens_ += std::count(own.begin(), own.end(), uint8_t{1});
    n_without_ += last < 0;
  }
  if (n_tokens_ == 0)
    throw Error("--positions, --span",
                "expected a token to look at, found none in " + std::to_string(records.size()) + " records");
}

int64_t ChosenTokens::last_of(int64_t record) const {
  const std::vector<uint8_t>& own = chosen_[static_cast<size_t>(record)];
  const auto found = std::find(own.rbegin(), own.rend(), uint8_t{1});
  return own.rend() - found - 1;
}

}  // namespace signalbox::eval
