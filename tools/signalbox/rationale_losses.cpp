// signalbox rationale losses: the losses of given parameters, and their gradients (docs/rationales.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/rationale.h"
#include "tools/terminal/output.h"
#include "train/rationale/factor_tensors.h"

namespace signalbox::tools {

using namespace train;

namespace {

struct LossFlags {
  std::string fixed, grad, weights;
  FactorFormFlags forms;
};

CLI::App* add_loss_flags(CLI::App& app, LossFlags& flags) {
  CLI::App* command = app.add_subcommand("losses", "losses of given parameters, and their gradients, in double");
  command->footer(
      "The file holds hidden [rows, d], offsets [S+1], target [S, d_e], W_g [K, d] (or pi [rows, K] instead of it), "
      "f [K, d_f, d], V [K, d_e, d_f] and g [d, d_f]. Prints means over sentences.\n"
      "Example:\n  signalbox rationale losses --fixed tests/rationale/fixed_factors.safetensors --grad "
      "/tmp/slopes.safetensors --weights sentence=1,token=0.5");
  command->add_option("--fixed", flags.fixed, "parameters and sentences")->type_name("FILE")->required();
  auto* grad = command->add_option("--grad", flags.grad, "file for the gradients of the weighted sum, grad.NAME each")
                   ->type_name("OUT");
  command
      ->add_option("--weights", flags.weights,
                   "of the losses in that sum: sentence=1,token=0.5 (others 0), or numbers in the order in which they "
                   "are printed; default: 1 each")
      ->type_name("LIST")
      ->needs(grad);
  add_factor_form_options(*command, flags.forms);
  return command;
}

// Rows of pi [rows, n] are distributions. Throws Error naming the row.
void check_pi(const std::vector<double>& pi, int64_t n, const std::string& file) {
  for (size_t begin = 0; begin < pi.size(); begin += static_cast<size_t>(n)) {
    double sum = 0, least = 0;
    for (size_t k = begin; k < begin + static_cast<size_t>(n); ++k) {
      sum += pi[k];
      least = std::min(least, pi[k]);
    }
    const std::string row = "pi: expected numbers from 0 that sum to 1 in row " +
                            std::to_string(begin / static_cast<size_t>(n)) + ", found ";
    if (least < 0) throw Error(file, row + format_value(least, 4));
    if (!(std::fabs(sum - 1) <= 1e-4)) throw Error(file, row + "the sum " + format_value(sum, 6));
  }
}

// The gradients would take the place of what they are of.
void check_places(const LossFlags& flags) {
  std::error_code code;
  if (std::filesystem::weakly_canonical(flags.fixed, code) == std::filesystem::weakly_canonical(flags.grad, code))
    throw UsageError("--grad", "expected another file than that of --fixed, found " + in_quotes(flags.grad));
}

struct FixedFactors {
  FactorParameters parameters;
  FactorBatch batch;
};

FixedFactors read_fixed(const std::string& name) {
  const auto file = safetensors::File::open(name);
  for (const safetensors::TensorInfo& tensor : file->tensors()) {
    bool known = tensor.name == "hidden" || tensor.name == "offsets" || tensor.name == "target" || tensor.name == "pi";
    for (const char* parameter : factor_parameter_names) known = known || tensor.name == parameter;
    if (!known)
      throw Error(
          name, "expected the tensors hidden, offsets, target, W_g or pi, f, V and g, found " + in_quotes(tensor.name));
  }
  const bool given = file->find("pi") != nullptr;
  if (given && file->find("W_g")) throw Error(name, "expected one of W_g and pi, found both");
  FactorShape shape;
  shape.d_hidden = dimension(*file, "hidden", 1, 2);
  shape.n_factors = dimension(*file, given ? "pi" : "W_g", given ? 1 : 0, 2);
  shape.d_factor = dimension(*file, "f", 1, 3);
  shape.d_target = dimension(*file, "target", 1, 2);
  FixedFactors fixed;
  fixed.parameters = FactorParameters(shape);
  for (size_t i = given ? 1 : 0; i < factor_parameter_names.size(); ++i)
    factor_parameter(fixed.parameters, i) =
        read_doubles(*file, factor_parameter_names[i], factor_parameter_shape(shape, i));
  fixed.batch.hidden = read_doubles(*file, "hidden", {-1, shape.d_hidden});
  const auto n_rows = static_cast<int64_t>(fixed.batch.hidden.size()) / shape.d_hidden;
  fixed.batch.offsets = read_offsets(*file, n_rows);
  fixed.batch.target = read_doubles(*file, "target", {fixed.batch.n_sentences(), shape.d_target});
  if (given) {
    fixed.batch.pi = read_doubles(*file, "pi", {n_rows, shape.n_factors});
    check_pi(fixed.batch.pi, shape.n_factors, name);
  }
  return fixed;
}

int run_losses(const LossFlags& flags) {
  if (!flags.grad.empty()) check_places(flags);
  FactorForms forms;
  read_factor_forms(flags.forms, forms);
  FactorLosses weights{};
  std::fill_n(weights.begin(), n_document_losses, 1.0);
  if (!flags.weights.empty()) weights = parse_factor_weights(flags.weights, "--weights");
  const FixedFactors fixed = read_fixed(flags.fixed);
  ThreadPool pool(1);
  FactorGradients gradients;
  const bool back = !flags.grad.empty();
  const FactorLosses losses =
      factor_losses(fixed.parameters, fixed.batch, forms, weights, pool, nullptr, back ? &gradients : nullptr);
  json::Value line = json::Value::object();
  for (size_t i = 0; i < losses.size(); ++i)
    if (i < n_document_losses || weights[i] > 0) line.set(factor_loss_names[i], losses[i]);
  if (back) {
    const FactorShape& shape = fixed.parameters.shape;
    const bool given = !fixed.batch.pi.empty();
    std::vector<NamedTensor> tensors;
    for (size_t i = given ? 1 : 0; i < factor_parameter_names.size(); ++i)
      tensors.push_back({std::string("grad.") + factor_parameter_names[i], factor_parameter_shape(shape, i),
                         &factor_parameter(gradients.parameters, i)});
    tensors.push_back({"grad.hidden", {fixed.batch.n_tokens(), shape.d_hidden}, &gradients.hidden});
    tensors.push_back({"grad.target", {fixed.batch.n_sentences(), shape.d_target}, &gradients.target});
    write_tensors(flags.grad, "F64", tensors, {}, {});
  }
  write_stdout(json::dump(line) + "\n");
  return 0;
}

}  // namespace

Subcommand add_rationale_losses(CLI::App& app) {
  auto flags = std::make_shared<LossFlags>();
  CLI::App* added = add_loss_flags(app, *flags);
  return {added, [flags](int, char**) { return run_losses(*flags); }};
}

}  // namespace signalbox::tools
