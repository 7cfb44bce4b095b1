// quality.csv, routes.csv, layers.csv, card.json and README.md of a carved model, and what is said of them.
#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/routing/recording_identity.h"
#include "train/upcycle/upcycle.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

constexpr const char *quality_file = "quality.csv", *routes_file = "routes.csv", *layers_file = "layers.csv";

// Rows of a plan: the kinds, and all of them together.
std::vector<std::string> row_names(const UpcycleTexts& texts) {
  std::vector<std::string> names = texts.kinds;
  if (names.size() > 1) names.emplace_back("all");
  return names;
}

std::string quality_csv(const CardInputs& in) {
  CsvWriter csv({"plan", "kind", "tokens", "parameters", "active_parameters", "ppl", "ppl_ci_lo", "ppl_ci_hi", "kl",
                 "kl_ci_lo", "kl_ci_hi", "agreement", "agreement_ci_lo", "agreement_ci_hi"});
  const std::vector<std::string> names = row_names(*in.texts);
  for (const PlanQuality& plan : in.judgement->plans)
    for (size_t k = 0; k < names.size(); ++k) {
      const Quality& q = plan.kinds[k];
      csv.cell(plan.plan).cell(names[k]).cell(q.tokens).cell(plan.parameters).cell(plan.active_parameters);
      csv.cell(q.ppl).cell(q.ppl_ci.lo).cell(q.ppl_ci.hi).cell(q.kl).cell(q.kl_ci.lo).cell(q.kl_ci.hi);
      csv.cell(q.agreement).cell(q.agreement_ci.lo).cell(q.agreement_ci.hi).end_row();
    }
  return csv.text();
}

std::string routes_csv(const CardInputs& in) {
  CsvWriter csv({"layer", "expert", "kind", "tokens", "selected", "share"});
  const RouteCounts& routes = in.judgement->routes;
  for (size_t l = 0; l < in.layers->size(); ++l)
    for (size_t e = 0; e < routes.selected.front()[l].size(); ++e)
      for (size_t k = 0; k < in.texts->kinds.size(); ++k) {
        const int64_t selected = routes.selected[k][l][e], tokens = routes.tokens[k];
        csv.cell(static_cast<int64_t>(l)).cell(static_cast<int64_t>(e)).cell(in.texts->kinds[k]).cell(tokens);
        csv.cell(selected).cell(static_cast<double>(selected) / static_cast<double>(tokens)).end_row();
      }
  return csv.text();
}

// How a layer's experts are used on all kinds, and where two kinds differ most.
struct LayerUse {
  double entropy = 0;  // of the selections, as a share of its maximum
  double least = 1, most = 0;
  double difference = 0;  // share on kind a, less share on kind b
  int64_t expert = 0;
  size_t a = 0, b = 0;
};

LayerUse layer_use(const RouteCounts& routes, size_t layer) {
  LayerUse use;
  const size_t n = routes.selected.front()[layer].size(), kinds = routes.tokens.size();
  double all = 0, tokens = 0, entropy = 0;
  std::vector<double> sums(n);
  for (size_t k = 0; k < kinds; ++k) {
    tokens += static_cast<double>(routes.tokens[k]);
    for (size_t e = 0; e < n; ++e) sums[e] += static_cast<double>(routes.selected[k][layer][e]);
  }
  for (const double sum : sums) all += sum;
  for (const double sum : sums) {
    use.least = std::min(use.least, sum / tokens);
    use.most = std::max(use.most, sum / tokens);
    if (sum > 0) entropy -= sum / all * std::log(sum / all);
  }
  use.entropy = n > 1 ? entropy / std::log(static_cast<double>(n)) : 1;
  const auto share = [&](size_t k, size_t e) {
    return static_cast<double>(routes.selected[k][layer][e]) / static_cast<double>(routes.tokens[k]);
  };
  for (size_t e = 0; e < n; ++e)
    for (size_t a = 0; a < kinds; ++a)
      for (size_t b = 0; b < kinds; ++b)
        if (const double d = share(a, e) - share(b, e); d > use.difference)
          use = {use.entropy, use.least, use.most, d, static_cast<int64_t>(e), a, b};
  return use;
}

std::string layers_csv(const CardInputs& in) {
  CsvWriter csv({"layer", "error_linear", "error_refit", "error_static", "error_static_refit", "usage_entropy",
                 "least_share", "most_share", "risk_difference", "expert", "more_on", "less_on"});
  for (size_t l = 0; l < in.layers->size(); ++l) {
    const CarvedLayer& layer = (*in.layers)[l];
    const LayerUse use = layer_use(in.judgement->routes, l);
    csv.cell(static_cast<int64_t>(l)).cell(layer.error_linear).cell(layer.error_refit);
    csv.cell(layer.error_static).cell(layer.error_static_refit).cell(use.entropy).cell(use.least).cell(use.most);
    if (use.difference > 0) {
      csv.cell(use.difference).cell(use.expert).cell(in.texts->kinds[use.a]).cell(in.texts->kinds[use.b]);
    } else {
      csv.cell("").cell("").cell("").cell("");
    }
    csv.end_row();
  }
  return csv.text();
}

json::Value routes_json(const CardInputs& in) {
  double entropy = 0, lowest = 1, least = 1, most = 0, mean = 0;
  LayerUse top;
  int64_t top_layer = -1;
  const auto n = static_cast<double>(in.layers->size());
  for (size_t l = 0; l < in.layers->size(); ++l) {
    const LayerUse use = layer_use(in.judgement->routes, l);
    entropy += use.entropy / n;
    lowest = std::min(lowest, use.entropy);
    least = std::min(least, use.least);
    most = std::max(most, use.most);
    mean += use.difference / n;
    if (use.difference > top.difference) {
      top = use;
      top_layer = static_cast<int64_t>(l);
    }
  }
  json::Value out = json::Value::object();
  out.set("usage_entropy", entropy).set("lowest_usage_entropy", lowest);
  out.set("least_share", least).set("most_share", most);
  if (top_layer < 0) return out.set("risk_difference", json::Value());
  json::Value difference = json::Value::object();
  difference.set("largest", top.difference).set("layer", top_layer).set("expert", top.expert);
  difference.set("more_on", in.texts->kinds[top.a]).set("less_on", in.texts->kinds[top.b]);
  return out.set("risk_difference", difference.set("mean_of_layers", mean));
}

json::Value records_json(const std::vector<Record>& records, const std::vector<Job>& jobs) {
  RecordsHash hash;
  int64_t tokens = 0;
  for (const Record& record : records) hash.add(record);
  for (const Job& job : jobs) tokens += job.n_given();
  return json::Value::object()
      .set("hash", hash.hex())
      .set("records", static_cast<int64_t>(records.size()))
      .set("tokens", tokens);
}

std::string text_of(const gguf::File& file, const char* key) {
  return file.has(key) ? file.string(key) : std::string();
}

json::Value text_or_null(const std::string& text) { return text.empty() ? json::Value() : json::Value(text); }

std::string evaluation_from(const CardInputs& in) {
  if (in.upcycling->evaluation) return "--eval";
  return in.upcycling->data ? "a fifth of --data, drawn by the seed"
                            : "a fifth of the model's own text, drawn by the seed";
}

json::Value card_json(const CardInputs& in) {
  const Upcycling& up = *in.upcycling;
  const gguf::File& file = *in.file;
  const CarveLayout& layout = up.carve.layout;
  json::Value source = json::Value::object(), cut = json::Value::object(), quality = json::Value::array();
  source.set("file", fs::path(file.name()).filename().string()).set("sha256", in.file_hash);
  for (const auto& [name, key] : {std::pair("name", "general.name"),
                                  {"organization", "general.organization"},
                                  {"license", "general.license"},
                                  {"url", "general.source.url"}})
    source.set(name, text_or_null(text_of(file, key)));
  cut.set("name", layout.name()).set("shared", layout.shared).set("active", layout.active);
  cut.set("experts", layout.experts).set("active_share", layout.active_share());
  for (const PlanQuality& plan : in.judgement->plans)
    for (size_t k = 0; k < plan.kinds.size(); ++k) {
      const Quality& q = plan.kinds[k];
      quality.push_back(json::Value::object()
                            .set("plan", plan.plan)
                            .set("kind", row_names(*in.texts)[k])
                            .set("tokens", q.tokens)
                            .set("ppl", q.ppl)
                            .set("kl", q.kl)
                            .set("kl_ci", json::Value::array().push_back(q.kl_ci.lo).push_back(q.kl_ci.hi))
                            .set("agreement", q.agreement));
    }
  json::Value calibration = records_json(in.texts->calibration, in.texts->calibration_jobs.jobs);
  calibration.set("from", up.data ? "--data" : "text that the dense model wrote");
  json::Value evaluation = records_json(in.texts->evaluation, in.texts->evaluation_jobs.jobs);
  evaluation.set("from", evaluation_from(in)).set("moved_to_calibration", in.texts->moved);
  evaluation.set("tokens_in_a_row_not_shared_with_calibration", shared_run);
  json::Value card = json::Value::object();
  card.set("schema", upcycle_schema).set("signalbox_version", SIGNALBOX_VERSION).set("source", std::move(source));
  card.set("layout", std::move(cut)).set("dtype", std::string(dtype_name(up.dtype))).set("seed", up.carve.seed);
  card.set("router_ridge", up.carve.router_ridge).set("refit_ridge", up.carve.refit_ridge);
  card.set("calibration", std::move(calibration)).set("evaluation", std::move(evaluation));
  return card.set("quality", std::move(quality)).set("routes", routes_json(in));
}

std::string percent(double share) { return format_value(100 * share, 1) + " %"; }

std::string readme(const CardInputs& in, const json::Value& card) {
  const gguf::File& file = *in.file;
  const CarveLayout& layout = in.upcycling->carve.layout;
  const std::string license = text_of(file, "general.license"), name = text_of(file, "general.name");
  std::string out;
  if (!license.empty()) out += "---\nlicense: " + license + "\n---\n\n";
  out += "# " + (name.empty() ? fs::path(file.name()).stem().string() : name) + ", " + layout.name() + "\n\n";
  out +=
      "A sparse mixture of experts carved from a dense model by `signalbox upcycle`, without training. Of each "
      "feed-forward block's " +
      std::to_string(layout.experts) + " parts " + std::to_string(layout.shared) +
      " are always on (the shared expert) and " + std::to_string(layout.active) + " of the other " +
      std::to_string(layout.routed()) + " are on for each token: " + percent(layout.active_share()) +
      " of the neurons.\n\n";
  out += "- Source: `" + fs::path(file.name()).filename().string() + "`, SHA-256 `" + in.file_hash + "`\n";
  out += "- License of the source: " +
         (license.empty() ? std::string("not stated in the file; that of its authors holds") : license) + "\n";
  for (const auto& [key, label] : {std::pair("general.organization", "Made by"), {"general.source.url", "From"}})
    if (const std::string text = text_of(file, key); !text.empty())
      out += "- " + std::string(label) + ": " + text + "\n";
  out +=
      "- Changed: the feed-forward blocks are cut, reordered and their down-projections refitted; attention, norms "
      "and embeddings are the source's. The dense model stands in `" +
      std::string(dense_dir) +
      "/`.\n\n## Quality\n\nKL is to the dense model, in nats, with 95 % intervals over "
      "records; agreement is the share of tokens with the same most probable next one. Text: " +
      evaluation_from(in) + ".\n\n| plan | text | perplexity | KL | agreement |\n|---|---|---|---|---|\n";
  const std::vector<std::string> names = row_names(*in.texts);
  for (const PlanQuality& plan : in.judgement->plans)
    for (size_t k = 0; k < names.size(); ++k) {
      const Quality& q = plan.kinds[k];
      out += "| " + plan.plan + " | " + markdown_escape(names[k]) + " | " + format_value(q.ppl, 2) + " | " +
             format_value(q.kl, 3) + " " + format_interval(q.kl_ci.lo, q.kl_ci.hi, 3) + " | " +
             format_value(q.agreement, 3) + " |\n";
    }
  const json::Value& routes = *card.find("routes");
  const auto number = [](const json::Value& of, const char* key) { return of.find(key)->real(); };
  out +=
      "\n`upcycled` is this model. `linear` is the same without the refit, `best_route` what a router would reach that "
      "knew the size of every expert's output, `static` no router at the same width.\n\n## Routes\n\nUsage entropy " +
      format_value(number(routes, "usage_entropy"), 3) + " of the maximum (lowest layer " +
      format_value(number(routes, "lowest_usage_entropy"), 3) + "), an expert's share of tokens " +
      format_value(number(routes, "least_share"), 2) + " to " + format_value(number(routes, "most_share"), 2) + ".";
  if (const json::Value& difference = *routes.find("risk_difference"); !difference.is_null())
    out += " Between two kinds of text an expert's share differs by up to " +
           format_value(number(difference, "largest"), 2) + " (layer " +
           std::to_string(difference.find("layer")->integer()) + ", expert " +
           std::to_string(difference.find("expert")->integer()) + "), by " +
           format_value(number(difference, "mean_of_layers"), 2) + " in a layer on the mean.";
  return out + "\n";
}

}  // namespace

void write_upcycle_files(const CardInputs& inputs, const fs::path& directory) {
  const json::Value card = card_json(inputs);
  write_file_atomically(directory / quality_file, quality_csv(inputs));
  write_file_atomically(directory / routes_file, routes_csv(inputs));
  write_file_atomically(directory / layers_file, layers_csv(inputs));
  write_file_atomically(directory / "README.md", readme(inputs, card));
  write_file_atomically(directory / card_file, json::dump(card, 2) + "\n");
}

std::string upcycle_table(const fs::path& directory, int width) {
  const CsvTable csv = CsvTable::read(directory / quality_file);
  TextTable table({{"plan", false, true},
                   {"text", false, true},
                   {"tokens"},
                   {"M active"},
                   {"perplexity"},
                   {"KL"},
                   {"KL, 95 %"},
                   {"agreement"}});
  const auto at = [&](size_t row, const char* column) {
    const std::string& cell = csv.text(row, csv.column(column));
    return cell.empty() ? std::nan("") : std::stod(cell);
  };
  const int decimals = decimals_for(at(0, "active_parameters") / 1e6);
  for (size_t row = 0; row < csv.n_rows(); ++row) {
    const std::string plan = csv.text(row, csv.column("plan"));
    const bool first = row > 0 && csv.text(row - 1, csv.column("plan")) != plan;
    table.add({plan, csv.text(row, csv.column("kind")), csv.text(row, csv.column("tokens")),
               format_value(at(row, "active_parameters") / 1e6, decimals), format_value(at(row, "ppl"), 2),
               format_value(at(row, "kl"), 3), format_interval(at(row, "kl_ci_lo"), at(row, "kl_ci_hi"), 3),
               format_value(at(row, "agreement"), 3)},
              first);
  }
  return table.text(width);
}

std::vector<std::string> upcycle_sentences(const fs::path& directory) {
  const json::Value card = json::parse_file(directory / card_file);
  const json::Ref root(card, (directory / card_file).string());
  const json::Ref routes = root.at("routes");
  std::string line = "Routes: usage entropy " + format_value(routes.at("usage_entropy").number(), 3) +
                     " of the maximum, shares " + format_value(routes.at("least_share").number(), 2) + " to " +
                     format_value(routes.at("most_share").number(), 2);
  if (const auto difference = routes.find("risk_difference"))
    line += "; between " + difference->at("more_on").string() + " and " + difference->at("less_on").string() +
            " layer " + std::to_string(difference->at("layer").integer()) + " expert " +
            std::to_string(difference->at("expert").integer()) + " differs by " +
            format_value(difference->at("largest").number(), 2);
  return {line + "."};
}

}  // namespace signalbox::train
