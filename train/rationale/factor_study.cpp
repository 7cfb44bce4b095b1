#include "train/rationale/factor_study.h"

#include <algorithm>

#include "base/csv.h"
#include "base/files.h"
#include "base/no_number.h"
#include "eval/store/work_directory.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

struct StudiedModel {
  int64_t n_factors = 0;
  uint64_t seed = 0;
  fs::path dir;
  FactorModelScores scores;
};

struct Spread {
  double median = no_number, least = no_number, most = no_number;
};

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.5), values.front(), values.back()};
}

double or_none(const std::optional<double>& value) { return value.value_or(no_number); }

// What is known of one number of factors.
struct OfFactors {
  int64_t n_factors = 0;
  double agreement = no_number;
  Spread token, total, macro_f1;
};

OfFactors summarize(const std::vector<StudiedModel>& models, int64_t n_factors) {
  OfFactors of;
  of.n_factors = n_factors;
  std::vector<double> token, total, f1;
  std::vector<std::vector<int32_t>> divisions;
  for (const StudiedModel& model : models) {
    if (model.n_factors != n_factors) continue;
    token.push_back(model.scores.validation_token);
    total.push_back(model.scores.validation_total);
    if (model.scores.macro_f1) f1.push_back(*model.scores.macro_f1);
    divisions.push_back(model.scores.test_factors);
  }
  of.agreement = mean_agreement(divisions, n_factors);
  of.token = spread_of(token);
  of.total = spread_of(total);
  of.macro_f1 = spread_of(f1);
  return of;
}

void write_models(const fs::path& file, const std::vector<StudiedModel>& models, const FactorChoice& chosen) {
  CsvWriter csv({"factors", "seed", "validation_total", "validation_token", "macro_f1", "micro_f1", "many_to_one_f1",
                 "v_measure", "adjusted_rand", "chosen"});
  for (const StudiedModel& model : models) {
    const FactorModelScores& s = model.scores;
    csv.cell(model.n_factors).cell(static_cast<int64_t>(model.seed)).cell(s.validation_total).cell(s.validation_token);
    csv.cell(or_none(s.macro_f1)).cell(or_none(s.micro_f1)).cell(or_none(s.many_to_one_f1)).cell(or_none(s.v_measure));
    csv.cell(or_none(s.adjusted_rand));
    csv.cell(int64_t{model.n_factors == chosen.n_factors && model.seed == chosen.seed});
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_choice(const fs::path& file, const std::vector<OfFactors>& rows, int64_t chosen) {
  CsvWriter csv({"factors", "agreement", "token", "token_lo", "token_hi", "total", "total_lo", "total_hi", "macro_f1",
                 "macro_f1_lo", "macro_f1_hi", "chosen"});
  for (const OfFactors& row : rows) {
    csv.cell(row.n_factors).cell(row.agreement);
    for (const Spread* spread : {&row.token, &row.total, &row.macro_f1})
      csv.cell(spread->median).cell(spread->least).cell(spread->most);
    csv.cell(int64_t{row.n_factors == chosen});
    csv.end_row();
  }
  write_file_atomically(file, csv.text());
}

FactorChoice choose(const std::vector<StudiedModel>& models, const std::vector<OfFactors>& rows) {
  const OfFactors* best = nullptr;
  for (const OfFactors& row : rows)
    if (row.agreement >= steady_agreement) best = &row;  // ascending: the largest stays
  if (!best)
    best = &*std::min_element(rows.begin(), rows.end(),
                              [](const OfFactors& a, const OfFactors& b) { return a.token.median < b.token.median; });
  FactorChoice chosen{best->n_factors, 0, best->agreement};
  const StudiedModel* least = nullptr;
  for (const StudiedModel& model : models)
    if (model.n_factors == best->n_factors &&
        (!least || model.scores.validation_total < least->scores.validation_total))
      least = &model;
  chosen.seed = least->seed;
  return chosen;
}

}  // namespace

double mean_agreement(const std::vector<std::vector<int32_t>>& divisions, int64_t n_classes) {
  double sum = 0;
  int64_t n = 0;
  for (size_t a = 0; a < divisions.size(); ++a)
    for (size_t b = 0; b < a; ++b, ++n)
      sum += adjusted_rand(Contingency(divisions[a], divisions[b], n_classes, n_classes));
  return n > 0 ? sum / static_cast<double>(n) : no_number;
}

FactorStudyEnd study_factors(const FactorStudy& study, FactorChoice& chosen) {
  WorkDirectory work(study.dir, study.manifest);
  const PreparedCorpus corpus = prepare_corpus(*study.corpus, study.settings.standardize);
  ThreadPool pool(std::max(1, study.threads));
  std::vector<StudiedModel> models;
  for (const int64_t k : study.n_factors)
    for (int64_t i = 0; i < study.n_seeds; ++i) {
      const uint64_t seed = study.seed + static_cast<uint64_t>(i);
      models.push_back(
          {k, seed, study.dir / "models" / ("K" + std::to_string(k) + "-seed" + std::to_string(seed)), {}});
    }
  const bool several = models.size() > 1;
  if (!several) models.front().dir = study.dir;
  for (size_t m = 0; m < models.size(); ++m) {
    FactorTraining training;
    training.corpus = &corpus;
    training.settings = study.settings;
    training.settings.n_factors = models[m].n_factors;
    training.seed = models[m].seed;
    training.dir = models[m].dir;
    training.pool = &pool;
    training.interrupted = study.interrupted;
    const auto number = static_cast<int64_t>(m);
    if (study.on_step) training.on_step = [&, number](int64_t step, double loss) { study.on_step(number, step, loss); };
    if (study.on_kept) training.on_kept = [&, number](int64_t step) { study.on_kept(number, step); };
    if (!work.complete() && !train_factors(training)) {
      work.finish(RunStatus::interrupted);
      return FactorStudyEnd::interrupted;
    }
    models[m].scores = read_factor_scores(corpus, training.settings, models[m].dir);
  }
  std::vector<OfFactors> rows;
  for (const int64_t k : study.n_factors) rows.push_back(summarize(models, k));
  chosen = choose(models, rows);
  if (work.complete()) return FactorStudyEnd::was_complete;
  if (several) {
    const auto at = std::find_if(models.begin(), models.end(), [&](const StudiedModel& model) {
      return model.n_factors == chosen.n_factors && model.seed == chosen.seed;
    });
    for (const char* file : {factor_log, factor_metrics, factor_weights, factor_outputs, factor_prf, factor_contingency,
                             factor_scores_file})
      copy_file_durably(at->dir / file, study.dir / file);
    write_models(study.dir / "models.csv", models, chosen);
    write_choice(study.dir / "choice.csv", rows, chosen.n_factors);
  }
  json::Value summary = json::Value::object();
  summary.set("schema", rationale_schema)
      .set("factors", chosen.n_factors)
      .set("seed", static_cast<int64_t>(chosen.seed))
      .set("models", static_cast<int64_t>(models.size()))
      .set("chosen_by", !several ? "there is one"
                        : chosen.agreement >= steady_agreement
                            ? "largest number of factors on which seeds agree, then least validation loss"
                            : "least token loss on the validation part, then least validation loss")
      .set("agreement", chosen.agreement)
      .set("agreement_is", "mean adjusted Rand index of argmax pi between seeds, on the scored part");
  for (size_t split = 0; split < 3; ++split)
    summary.set(std::string("sentences_") + factor_split_names[split],
                static_cast<int64_t>(corpus.sentences[split].size()));
  write_file_atomically(study.dir / "summary.json", json::dump(summary, 2) + "\n");
  work.finish(RunStatus::complete);
  return FactorStudyEnd::complete;
}

}  // namespace signalbox::train
