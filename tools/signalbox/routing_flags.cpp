#include "tools/signalbox/routing_flags.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "tools/signalbox/arguments.h"

namespace signalbox::tools {

using namespace train;

namespace {

template <class T>
bool read_number(std::string_view text, T& value) {
  const auto end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && at == end;
}

const std::string balance_kinds = "switch, transformers, sequence, device, communication or bias";

void add_balance(RoutingTuning& tuning, const std::string& text) {
  const size_t colon = text.find(':');
  double value = 0;
  if (colon == std::string::npos || !read_number(std::string_view(text).substr(colon + 1), value) || !(value > 0) ||
      !std::isfinite(value))
    throw UsageError("--balance", "expected KIND:COEF with a positive number, found " + in_quotes(text));
  const std::string kind = text.substr(0, colon);
  double* to = kind == "bias" ? &tuning.bias_rate : nullptr;
  for (const RoutingTerm term :
       {RoutingTerm::balance_switch, RoutingTerm::balance_transformers, RoutingTerm::balance_sequence,
        RoutingTerm::balance_device, RoutingTerm::balance_communication})
    if (routing_term_name(term) == "balance_" + kind) to = &tuning.terms.coefficient(term);
  if (!to) throw UsageError("--balance", "expected " + balance_kinds + ", found " + in_quotes(kind));
  if (*to != 0) throw UsageError("--balance", "expected each kind once, found " + kind + " twice");
  *to = value;
}

}  // namespace

void add_routing_flags(CLI::App& command, RoutingFlags& flags) {
  const std::string group = "What is asked of the routing";
  const auto coefficient = [&](const char* name, double& value, const char* what) {
    command.add_option(name, value, what)->check(in_range(0.0, 1e9))->type_name("COEF")->group(group);
  };
  command
      .add_option("--balance", flags.balance,
                  "a term that evens out the use of experts, its kind and coefficient: " + balance_kinds +
                      " (bias: no term, the rate of selection biases); several with commas or by the flag again")
      ->delimiter(',')
      ->type_name("KIND:COEF")
      ->group(group);
  command
      .add_option("--devices", flags.devices,
                  "of --balance device and communication: groups of neighbouring experts, and how many of them a token "
                  "may use")
      ->type_name("D[:M]")
      ->group(group);
  coefficient("--z-loss", flags.z_loss, "times the square of log sum exp of router logits");
  coefficient("--router-anchor", flags.router_anchor, "times KL(p of the untouched model || p) of the routers' scores");
  coefficient("--expert-anchor", flags.expert_anchor, "times the squared change of the weights of experts that train");
  coefficient("--orthogonality", flags.orthogonality, "times the squared cosine of outputs of experts chosen together");
  coefficient("--variance", flags.variance, "times minus the variance over tokens of the routers' scores");
  command
      .add_option("--router-gradient", flags.gradient,
                  "which experts a router's gradient sees: selected, or all (about an all-expert forward more)")
      ->check(one_of({"selected", "all"}))
      ->capture_default_str()
      ->group(group);
}

RoutingTuning tuning_of(const RoutingFlags& flags) {
  RoutingTuning tuning;
  for (const std::string& one : flags.balance) add_balance(tuning, one);
  RoutingTermSettings& terms = tuning.terms;
  terms.coefficient(RoutingTerm::z_loss) = flags.z_loss;
  terms.coefficient(RoutingTerm::router_anchor) = flags.router_anchor;
  terms.coefficient(RoutingTerm::orthogonality) = flags.orthogonality;
  terms.coefficient(RoutingTerm::variance) = flags.variance;
  tuning.expert_anchor = flags.expert_anchor;
  terms.all_experts = flags.gradient == "all";
  const bool communication = terms.coefficient(RoutingTerm::balance_communication) != 0;
  const bool groups = terms.coefficient(RoutingTerm::balance_device) != 0 || communication;
  if (flags.devices.empty()) {
    if (groups) throw UsageError("--devices", "expected a number beside --balance device or communication, found none");
    return tuning;
  }
  if (!groups)
    throw UsageError("--devices", "expected --balance device or communication beside it, found " +
                                      (flags.balance.empty() ? std::string("none") : joined(flags.balance)));
  const size_t colon = flags.devices.find(':');
  const bool limit = colon != std::string::npos;
  if (!read_number(std::string_view(flags.devices).substr(0, colon), terms.devices) || terms.devices < 1 ||
      (limit && (!read_number(std::string_view(flags.devices).substr(colon + 1), terms.devices_per_token) ||
                 terms.devices_per_token < 1 || terms.devices_per_token > terms.devices)))
    throw UsageError("--devices", "expected D or D:M with 1 <= M <= D, found " + in_quotes(flags.devices));
  if (communication != limit)
    throw UsageError("--devices", communication ? "expected D:M beside --balance communication, found no M"
                                                : "expected D alone (M is of --balance communication), found " +
                                                      in_quotes(flags.devices));
  return tuning;
}

json::Value tuning_json(const RoutingTuning& tuning) {
  if (!tuning.any()) return {};
  json::Value out = json::Value::object();
  for (size_t i = 0; i < n_routing_terms; ++i)
    if (tuning.terms.coefficients[i] != 0)
      out.set(std::string(routing_term_name(static_cast<RoutingTerm>(i))), tuning.terms.coefficients[i]);
  if (tuning.terms.devices > 0) out.set("devices", tuning.terms.devices);
  if (tuning.terms.devices_per_token > 0) out.set("devices_per_token", tuning.terms.devices_per_token);
  if (tuning.expert_anchor != 0) out.set("expert_anchor", tuning.expert_anchor);
  if (tuning.bias_rate != 0) out.set("bias_rate", tuning.bias_rate);
  if (tuning.terms.all_experts) out.set("router_gradient", "all");
  return out;
}

}  // namespace signalbox::tools
