// Safe completions that a model writes itself: under an instruction it is asked to decline each prompt, and what the
// product's rules call a refusal is kept.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/data/csv_records.h"

namespace signalbox::eval {

// {prompt} is what is asked, {words} how many words the unsafe completion has.
extern const char* const default_safe_instruction;

struct SafeAsking {
  std::string instruction = default_safe_instruction;
  Sampling sampling;  // temperature 0: one try
  int64_t tries = 1;  // at most; the first that is kept counts
  // A text may have as many tokens as the unsafe completion times this, at least `least_tokens`.
  double longest = 1.5;
  int64_t least_tokens = 24;
};

// Why a prompt has no safe completion: of its last try.
enum class SafeDrop : uint8_t { no_refusal, empty, cut };
const char* safe_drop_name(SafeDrop reason);  // "no_refusal", ...

struct SafeCompletions {
  std::vector<Row> records;  // those that were kept, with "unsafe", "safe" and "safe_source"
  int64_t n_asked = 0;       // unsafe completions
  int64_t n_replaced = 0;    // of these, records with a safe text of their own, which is not used
  int64_t n_safe_rows = 0;   // records that are safe responses, which are not asked
  std::vector<std::pair<std::string, SafeDrop>> dropped;  // id and why
  std::map<int64_t, int64_t> kept_at;                     // try (from 0) -> completions kept at it
  std::vector<double> length_ratios;                      // tokens of the safe over tokens of the unsafe completion
  bool finished = true;                                   // false: interrupted, and nothing is there
};

// Asks session's model for a safe completion of each record that has "unsafe", or "response" with "is_safe" false. The
// instruction takes the place of the last user message, filled with it; a record's prompt becomes a user message where
// the model has a chat template, and else the instruction stands as it is before "Reply:". A text that was cut at the
// limit ends with its last whole sentence. It is kept when refused() says so. "safe_source" holds {model (hash),
// instruction, temperature, seed, try, tokens}. Throws Error at the record's place: no prompt or messages, no user
// message with a text, an empty completion; and for an instruction without {prompt}.
SafeCompletions safe_completions(const Session& session, const std::vector<Row>& records, const SafeAsking& asking,
                                 const std::function<void(int64_t done, int64_t total)>& on_progress = {});

// {"asked", "kept", "replaced", "dropped": {reason: n}, "kept_at_try": {"0": n}, "length_ratio": {"q10", "median",
// "q90"}, "records_dropped": [{"id", "reason"}]}.
json::Value safe_summary(const SafeCompletions& found);

}  // namespace signalbox::eval
