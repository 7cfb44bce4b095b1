// When two prompts are the same: by this, and not by ids or names of files, a test is kept apart from the records that
// chose its experts, and copies of a record are one example.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/data/records.h"

namespace signalbox::eval {

// Unicode's form NFC with each run of white space (str.isspace) one blank, and none at the ends.
std::string normal_prompt(std::string_view text);

// SHA-256 of normal_prompt(text), 64 digits.
std::string prompt_hash(std::string_view text);

// That of a line of a file of records, as far as it is known without a model: prompt_hash of its "prompt"; of
// "messages" that of "messages " and their JSON, members in the order of their keys and texts normalised; of "tokens"
// that of "tokens 1 2 3". A target is no part of it. Empty where the line has none of the three.
std::string line_prompt_hash(const json::Value& record);

// Throws Error naming both lines where a record of `b` has the prompt of one of `a`; `a_is`, `b_is`: what they are for.
void refuse_common_prompts(const std::vector<Record>& a, const std::string& a_is, const std::vector<Record>& b,
                           const std::string& b_is);

// All hashes by which a record's prompt may be known; the first is the one that rankings carry. `encoded` is the record
// without its target. First that of the text that the model sees: the prompt, the messages as rendered, the ids decoded
// with their special tokens (without a tokenizer that of the line); then that of the line, those of the ids decoded
// with and without the begin token, and that of the record which a prompt program changed ("base_prompt").
std::vector<std::string> prompt_hashes(const Record& record, const EncodedRecord& encoded, const EncodeSetup& setup);

// The prompts that chose a ranking, as the summary.json beside it holds them: "prompts", a hash for each that differs,
// in order of first appearance, and "prompt_aliases", further hashes by which they are known (left out where there is
// none).
class PromptList {
 public:
  // All hashes of one prompt; none: it is not known which prompt it was, and put() writes nothing.
  void add(std::span<const std::string> hashes);
  void add_summary(const json::Value& summary);  // what put() wrote there
  bool known() const { return known_; }
  void put(json::Value& summary) const;

 private:
  bool known_ = true;
  std::vector<std::string> prompts_, aliases_;
};

}  // namespace signalbox::eval
