// The prompts that `signalbox domains` runs where no records are given: texts of our own, as many of each domain.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// Records "code-01", ... of the domains code, mathematics, creative, factual and mixed, domain by domain.
// `as_messages`: each a user's message for the chat template; else raw text for the model to go on with.
std::vector<Record> domain_prompts(bool as_messages);

// Throws Error naming the line of the first record that has no `domain`.
void require_domains(const std::vector<Record>& records);

}  // namespace signalbox::eval
