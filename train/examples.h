// Records as a training sees them: tokens, and which of them are to be predicted.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/data/records.h"
#include "train/namespaces.h"

namespace signalbox::train {

// One sequence. The loss counts its target and the end token behind it; where the record has no target, all tokens but
// the first.
struct Example {
  std::shared_ptr<const Prompt> prompt;
  // Of the sequence's last tokens: the token that follows and counts; -1 behind the last.
  std::vector<int32_t> targets;
  int64_t n_tokens() const { return static_cast<int64_t>(prompt->tokens.size()); }
  int64_t n_rows() const { return static_cast<int64_t>(targets.size()); }
  int64_t n_targets() const { return n_rows() - 1; }  // tokens that count
};

// The token that ends an answer of this model: the tokenizer's eos_token where it is one of the stop tokens, or the
// only stop token. Throws Error, naming --no-end-token, where there is none, or which one cannot be told.
int32_t end_token(const Session& session);

// Throws Error naming the record's place: what cannot be encoded, messages without a target, a target without text or
// without a token before it, a sequence of one token or of more than the model has positions.
std::vector<Example> make_examples(const Session& session, const std::vector<Record>& records,
                                   std::optional<int32_t> end);

int64_t count_targets(const std::vector<Example>& examples);

}  // namespace signalbox::train
