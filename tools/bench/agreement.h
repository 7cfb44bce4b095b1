// How far the results of a model are from those of the reference: f32 products, whatever the session's backend does.
#pragma once
#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/session.h"

namespace signalbox::tools {

// Runs a prompt of n_tokens random tokens on the session's backend and on `reference`, which reads the same weights:
// "tokens"; "same_experts": share of a layer's tokens that both send to the same set of experts; "same_slots": share of
// chosen experts that both chose (both null without routers); "kl_mean", "kl_max": KL(reference || this) of the next
// token in nats; "same_top": share of tokens with the same most probable next one.
json::Value agreement_with(const Session& session, Backend& reference, int64_t n_tokens);

// A line about it.
std::string agreement_text(const json::Value& found);

}  // namespace signalbox::tools
