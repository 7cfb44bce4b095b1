#include "train/rationale/factor_training.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "train/rationale/factor_tensors.h"
#include "train/row_file.h"
#include "train/training.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

constexpr const char* factor_state_schema = "signalbox.rationale-state/1";
constexpr size_t n_parameters = factor_parameter_names.size();

std::vector<std::string_view> metrics_header() {
  std::vector<std::string_view> names = {"epoch", "split"};
  names.insert(names.end(), factor_loss_names.begin(), factor_loss_names.end());
  names.push_back("total");
  return names;
}

double total_of(const FactorLosses& losses, const FactorLosses& weights) {
  return std::inner_product(losses.begin(), losses.end(), weights.begin(), 0.0);
}

class FactorLoop {
 public:
  explicit FactorLoop(const FactorTraining& training)
      : t_(training), s_(training.settings), corpus_(*training.corpus), n_steps_(factor_steps(corpus_, s_)) {
    const auto n_train = static_cast<int64_t>(corpus_.sentences[0].size());
    per_epoch_ = (n_train + s_.batch - 1) / s_.batch;
    schedule_ = {s_.schedule, static_cast<int64_t>(s_.warmup * static_cast<double>(n_steps_)), n_steps_, s_.end};
    start();
  }

  // False: interrupted.
  bool run() {
    log_.emplace(t_.dir / factor_log,
                 std::vector<std::string_view>{"step", "tokens", "loss", "lr", "grad_norm", "entropy_weight"}, step_);
    metrics_.emplace(t_.dir / factor_metrics, metrics_header(), metric_rows_);
    if (step_ > 0 && t_.on_kept) t_.on_kept(step_);
    if (metric_rows_ == 0) measure(0);
    while (step_ < n_steps_) {
      if (t_.interrupted && *t_.interrupted) {
        save();
        return false;
      }
      step();
      const bool epoch = step_ % per_epoch_ == 0;
      if (epoch) measure(step_ / per_epoch_);
      if (s_.save_every > 0 ? step_ % s_.save_every == 0 : epoch) save();
    }
    metrics_->sync();
    log_->sync();
    return true;
  }
  FactorParameters parameters() const { return in_double(); }

 private:
  void start() {
    const FactorParameters first = first_parameters(corpus_, s_, t_.seed);
    shape_ = first.shape;
    FactorParameters values = first;
    for (size_t i = 0; i < n_parameters; ++i) {
      const std::vector<double>& of = factor_parameter(values, i);
      weights_[i].assign(of.begin(), of.end());
      m_[i].assign(of.size(), 0);
      v_[i].assign(of.size(), 0);
    }
    const fs::path file = t_.dir / factor_state;
    if (!fs::exists(file)) return;
    const auto stored = safetensors::File::open(file);
    const auto number = [&](const char* key) {
      const auto found = stored->metadata().find(key);
      if (found == stored->metadata().end())
        throw Error(file.string(), std::string("expected a state of a training, found none of its key ") + key);
      return std::stoll(found->second);
    };
    step_ = number("step");
    tokens_ = number("tokens");
    metric_rows_ = number("metric_rows");
    for (size_t i = 0; i < n_parameters; ++i)
      for (const auto& [part, to] :
           {std::pair(".weight", &weights_[i]), std::pair(".m", &m_[i]), std::pair(".v", &v_[i])}) {
        const safetensors::TensorInfo& info = stored->at(std::string(factor_parameter_names[i]) + part);
        if (info.bytes != to->size() * sizeof(float))
          throw Error(file.string() + ": " + info.name,
                      "expected " + std::to_string(to->size()) + " values, found " + std::to_string(info.elements()));
        std::memcpy(to->data(), stored->data(info), info.bytes);
      }
  }

  void save() {
    log_->sync();
    metrics_->sync();
    std::vector<safetensors::TensorHeader> headers;
    for (size_t i = 0; i < n_parameters; ++i)
      for (const char* part : {".weight", ".m", ".v"})
        headers.push_back({std::string(factor_parameter_names[i]) + part, "F32", factor_parameter_shape(shape_, i)});
    safetensors::Writer writer(t_.dir / factor_state, headers,
                               {{"schema", factor_state_schema},
                                {"step", std::to_string(step_)},
                                {"tokens", std::to_string(tokens_)},
                                {"metric_rows", std::to_string(metric_rows_)}});
    for (size_t i = 0; i < n_parameters; ++i)
      for (const std::vector<float>* part : {&weights_[i], &m_[i], &v_[i]})
        writer.write(part->data(), part->size() * sizeof(float));
    writer.finish();
  }

  FactorParameters in_double() const {
    FactorParameters p(shape_);
    for (size_t i = 0; i < n_parameters; ++i) factor_parameter(p, i).assign(weights_[i].begin(), weights_[i].end());
    return p;
  }

  // The weights of step `step`.
  FactorLosses weights_of(int64_t step) const {
    FactorLosses weights = s_.weights;
    const double ramp = s_.entropy_ramp * static_cast<double>(n_steps_);
    if (ramp > 0) weights[2] *= std::min(1.0, static_cast<double>(step - 1) / ramp);
    return weights;
  }

  void step() {
    const int64_t step = step_ + 1;
    std::vector<int64_t> sentences;
    for (const int64_t i : records_of_step(static_cast<int64_t>(corpus_.sentences[0].size()), s_.batch, t_.seed, step))
      sentences.push_back(corpus_.sentences[0][static_cast<size_t>(i)]);
    const FactorBatch batch = corpus_.batch(sentences);
    const FactorLosses weights = weights_of(step);
    FactorGradients gradients;
    const double loss =
        total_of(factor_losses(in_double(), batch, s_.forms, weights, *t_.pool, nullptr, &gradients), weights);
    std::vector<float> slopes[n_parameters];
    double square = 0;
    for (size_t i = 0; i < n_parameters; ++i) {
      const std::vector<double>& of = factor_parameter(gradients.parameters, i);
      slopes[i].assign(of.begin(), of.end());
      square += squared_norm(slopes[i]);
    }
    const double norm = std::sqrt(square);
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      save();
      throw Error("step " + std::to_string(step),
                  std::string("expected a finite ") + (std::isfinite(loss) ? "gradient" : "loss") + ", found " +
                      short_number(std::isfinite(loss) ? norm : loss) + " (the state before this step is kept)");
    }
    const double lr = s_.lr * schedule_.factor(step);
    for (size_t i = 0; i < n_parameters; ++i)
      adamw_step(weights_[i], m_[i], v_[i], slopes[i], s_.adam, step, lr, s_.adam.decay, clip_factor(norm, s_.clip));
    step_ = step;
    tokens_ += batch.n_tokens();
    log_->row().cell(step).cell(tokens_).cell(loss).cell(lr).cell(norm).cell(weights[2]);
    log_->end();
    if (t_.on_step) t_.on_step(step, loss);
  }

  void measure(int64_t epoch) {
    const FactorParameters p = in_double();
    for (size_t split = 0; split < 3; ++split) {
      if (corpus_.sentences[split].empty()) continue;
      const FactorLosses losses = evaluate_factors(p, corpus_, corpus_.sentences[split], s_, *t_.pool);
      metrics_->row().cell(epoch).cell(factor_split_names[split]);
      for (const double loss : losses) metrics_->row().cell(loss);
      metrics_->row().cell(total_of(losses, s_.weights));
      metrics_->end();
      ++metric_rows_;
    }
  }

  const FactorTraining& t_;
  const FactorSettings& s_;
  const PreparedCorpus& corpus_;
  const int64_t n_steps_;
  int64_t per_epoch_ = 1, step_ = 0, tokens_ = 0, metric_rows_ = 0;
  Schedule schedule_;
  FactorShape shape_;
  std::vector<float> weights_[n_parameters], m_[n_parameters], v_[n_parameters];
  std::optional<RowFile> log_, metrics_;
};

// The argmax of pi of each unit that counts, with its label. Of words: of the mean of their rows' pi.
FactorUnits units_of(const FactorCorpus& corpus, const std::vector<float>& pi, int64_t n_factors,
                     const std::vector<int64_t>& sentences, bool word_level) {
  FactorUnits units;
  const auto k = static_cast<size_t>(n_factors);
  for (const int64_t s : sentences) {
    std::map<int64_t, std::pair<int32_t, std::vector<double>>> sums;  // by word or row: its word, and the sum of pi
    for (int64_t r = corpus.offsets[static_cast<size_t>(s)]; r < corpus.offsets[static_cast<size_t>(s) + 1]; ++r) {
      const int32_t word = corpus.words[static_cast<size_t>(r)];
      if (word < 0) continue;
      auto& [of, sum] = sums[word_level ? word : r];
      of = word;
      sum.resize(k, 0);
      for (size_t i = 0; i < k; ++i) sum[i] += static_cast<double>(pi[static_cast<size_t>(r) * k + i]);
    }
    for (const auto& [unit, found] : sums) {
      const auto& [word, sum] = found;
      const int32_t label = corpus.has_labels() ? corpus.labels[static_cast<size_t>(s)][static_cast<size_t>(word)] : 0;
      if (label < 0) continue;
      units.factor.push_back(static_cast<int32_t>(std::max_element(sum.begin(), sum.end()) - sum.begin()));
      units.label.push_back(label);
      units.sentence.push_back(s);
    }
  }
  return units;
}

// The part that is scored: the test part, or what there is in its place.
size_t scored_split(const PreparedCorpus& corpus) {
  for (const size_t split : {size_t{2}, size_t{1}})
    if (!corpus.sentences[split].empty()) return split;
  return 0;
}
size_t fitted_split(const PreparedCorpus& corpus) { return corpus.sentences[1].empty() ? 0 : 1; }

std::string label_text(const FactorCorpus& corpus, int32_t label) {
  return label < 1 ? "" : corpus.label_names[static_cast<size_t>(label) - 1];
}

std::string prf_text(const FactorCorpus& corpus, const FactorReport& report) {
  CsvWriter csv({"factor", "label", "precision", "recall", "f1", "ci_lo", "ci_hi", "all_tokens", "random",
                 "best_balanced", "f1_sentences", "gold", "predicted", "hits"});
  for (const FactorScore& row : report.rows) {
    csv.cell(row.factor < 0 ? "" : std::to_string(row.factor)).cell(label_text(corpus, row.label));
    csv.cell(row.precision).cell(row.recall).cell(row.f1).cell(row.ci.lo).cell(row.ci.hi);
    csv.cell(row.base.all_tokens).cell(row.base.random).cell(row.base.best_balanced).cell(row.f1_sentences);
    csv.cell(row.gold).cell(row.predicted).cell(row.hits);
    csv.end_row();
  }
  return csv.text();
}

json::Value scores_json(const PreparedCorpus& corpus, const FactorReport* report, const FactorSettings& settings) {
  json::Value value = json::Value::object();
  value.set("level", settings.word_level ? "word" : "sub-word")
      .set("matched_on", factor_split_names[fitted_split(corpus)])
      .set("scored_on", factor_split_names[scored_split(corpus)]);
  if (!report) return value.set("labels", int64_t{0});
  return value.set("labels", static_cast<int64_t>(corpus.corpus->label_names.size()))
      .set("macro_f1", report->macro_f1)
      .set("micro_f1", report->micro_f1)
      .set("many_to_one_f1", report->many_to_one_f1)
      .set("v_measure", report->information.v_measure)
      .set("homogeneity", report->information.homogeneity)
      .set("completeness", report->information.completeness)
      .set("adjusted_rand", report->adjusted_rand)
      .set("permutation_control", json::Value::object()
                                      .set("statistic", "macro_f1")
                                      .set("mean", report->permuted_mean)
                                      .set("q95", report->permuted_high)
                                      .set("p", report->permuted_p)
                                      .set("n", report->permutations));
}

void write_results(const FactorTraining& t, const FactorParameters& p) {
  const PreparedCorpus& corpus = *t.corpus;
  const FactorCorpus& of = *corpus.corpus;
  const FactorSettings& s = t.settings;
  FactorParameters whole = p;
  if (s.shared) {  // as many copies as there are factors, so that one rule reads all files
    whole.shape.shared = false;
    for (int64_t k = 1; k < s.n_factors; ++k)
      whole.transform.insert(whole.transform.end(), p.transform.begin(), p.transform.end());
  }
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < n_parameters; ++i)
    tensors.push_back({factor_parameter_names[i], factor_parameter_shape(whole.shape, i), &factor_parameter(whole, i)});
  const std::vector<double> hidden_scale = {corpus.hidden_scale}, target_scale = {corpus.target_scale};
  if (s.standardize) {
    tensors.push_back({"hidden_mean", {of.d_hidden}, &corpus.hidden_mean});
    tensors.push_back({"hidden_scale", {1}, &hidden_scale});
    tensors.push_back({"target_mean", {of.d_target}, &corpus.target_mean});
    tensors.push_back({"target_scale", {1}, &target_scale});
  }
  const std::map<std::string, std::string> metadata = {{"schema", "signalbox.rationale/1"},
                                                       {"seed", std::to_string(t.seed)},
                                                       {"normalize", s.forms.normalize ? "true" : "false"}};
  write_tensors(t.dir / factor_weights, "F32", tensors, {}, metadata);

  std::vector<float> pi, z;
  for (int64_t first = 0; first < of.n_sentences(); first += s.batch) {
    std::vector<int64_t> sentences(static_cast<size_t>(std::min(s.batch, of.n_sentences() - first)));
    std::iota(sentences.begin(), sentences.end(), first);
    FactorOutputs outputs;
    factor_losses(p, corpus.batch(sentences), s.forms, {}, *t.pool, &outputs, nullptr);
    pi.insert(pi.end(), outputs.pi.begin(), outputs.pi.end());
    z.insert(z.end(), outputs.z.begin(), outputs.z.end());
  }
  std::vector<safetensors::TensorHeader> headers = {{"pi", "F32", {of.n_rows(), s.n_factors}},
                                                    {"z", "F32", {of.n_sentences(), s.n_factors, p.shape.d_factor}},
                                                    {"offsets", "I64", {of.n_sentences() + 1}}};
  safetensors::Writer writer(t.dir / factor_outputs, headers, metadata);
  writer.write(pi.data(), pi.size() * sizeof(float));
  writer.write(z.data(), z.size() * sizeof(float));
  writer.write(of.offsets.data(), of.offsets.size() * sizeof(int64_t));
  writer.finish();

  FactorReport report;
  CsvWriter contingency({"split", "factor", "label", "count", "f1"});
  if (of.has_labels()) {
    const auto n_labels = static_cast<int64_t>(of.label_names.size());
    for (size_t split = 0; split < 3; ++split) {
      const FactorUnits units = units_of(of, pi, s.n_factors, corpus.sentences[split], s.word_level);
      const Contingency table(units.factor, units.label, s.n_factors, n_labels + 1);
      for (int32_t k = 0; k < s.n_factors; ++k)
        for (int32_t label = 0; label <= n_labels; ++label) {
          contingency.cell(factor_split_names[split]).cell(int64_t{k}).cell(label == 0 ? "O" : label_text(of, label));
          contingency.cell(table.at(k, label)).cell(pair_f1(table, k, label));
          contingency.end_row();
        }
    }
    report = score_factors(units_of(of, pi, s.n_factors, corpus.sentences[fitted_split(corpus)], s.word_level),
                           units_of(of, pi, s.n_factors, corpus.sentences[scored_split(corpus)], s.word_level),
                           s.n_factors, n_labels, t.seed, s.resamples, s.permutations, t.pool->n_threads());
  }
  write_file_atomically(t.dir / factor_contingency, contingency.text());
  write_file_atomically(t.dir / factor_prf, prf_text(of, report));
  write_file_atomically(t.dir / factor_scores_file,
                        json::dump(scores_json(corpus, of.has_labels() ? &report : nullptr, s), 2) + "\n");
}

}  // namespace

FactorBatch PreparedCorpus::batch(std::span<const int64_t> chosen) const {
  FactorBatch made;
  made.offsets.push_back(0);
  const auto d = static_cast<size_t>(corpus->d_hidden), d_e = static_cast<size_t>(corpus->d_target);
  for (const int64_t s : chosen) {
    const auto begin = static_cast<size_t>(corpus->offsets[static_cast<size_t>(s)]),
               end = static_cast<size_t>(corpus->offsets[static_cast<size_t>(s) + 1]);
    for (size_t i = begin * d; i < end * d; ++i) {
      const double x = static_cast<double>(corpus->hidden[i]);
      made.hidden.push_back(hidden_mean.empty() ? x : (x - hidden_mean[i % d]) / hidden_scale);
    }
    made.offsets.push_back(made.offsets.back() + static_cast<int64_t>(end - begin));
    for (size_t i = 0; i < d_e; ++i) {
      const double x = static_cast<double>(corpus->target[static_cast<size_t>(s) * d_e + i]);
      made.target.push_back(target_mean.empty() ? x : (x - target_mean[i]) / target_scale);
    }
  }
  return made;
}

PreparedCorpus prepare_corpus(const FactorCorpus& corpus, bool standardize) {
  PreparedCorpus prepared;
  prepared.corpus = &corpus;
  for (int64_t s = 0; s < corpus.n_sentences(); ++s)
    prepared.sentences[static_cast<size_t>(corpus.splits[static_cast<size_t>(s)])].push_back(s);
  if (!standardize) return prepared;
  const FactorBatch all = prepared.batch(prepared.sentences[0]);
  const auto measure = [](const std::vector<double>& rows, int64_t width, std::vector<double>& mean, double& scale) {
    const auto d = static_cast<size_t>(width);
    const double n = static_cast<double>(rows.size() / d);
    std::vector<double> sum(d, 0);
    for (size_t i = 0; i < rows.size(); ++i) sum[i % d] += rows[i];
    for (double& x : sum) x /= n;
    double square = 0;
    for (size_t i = 0; i < rows.size(); ++i) square += (rows[i] - sum[i % d]) * (rows[i] - sum[i % d]);
    mean = std::move(sum);
    scale = square > 0 ? std::sqrt(square / static_cast<double>(rows.size())) : 1;
  };
  measure(all.hidden, corpus.d_hidden, prepared.hidden_mean, prepared.hidden_scale);
  measure(all.target, corpus.d_target, prepared.target_mean, prepared.target_scale);
  return prepared;
}

FactorLosses evaluate_factors(const FactorParameters& parameters, const PreparedCorpus& corpus,
                              std::span<const int64_t> sentences, const FactorSettings& settings, ThreadPool& pool) {
  FactorLosses sums{};
  const auto n = static_cast<int64_t>(sentences.size());
  for (int64_t first = 0; first < n; first += settings.batch) {
    const int64_t count = std::min(settings.batch, n - first);
    const FactorBatch batch = corpus.batch(sentences.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    const FactorLosses losses = factor_losses(parameters, batch, settings.forms, {}, pool, nullptr, nullptr);
    for (size_t i = 0; i < losses.size(); ++i) sums[i] += losses[i] * static_cast<double>(count);
  }
  for (double& sum : sums) sum /= static_cast<double>(n);
  return sums;
}

int64_t factor_steps(const PreparedCorpus& corpus, const FactorSettings& settings) {
  const auto n = static_cast<int64_t>(corpus.sentences[0].size());
  return settings.epochs * ((n + settings.batch - 1) / settings.batch);
}

bool train_factors(const FactorTraining& training) {
  fs::create_directories(training.dir);
  if (!fs::exists(training.dir / factor_scores_file)) {
    FactorLoop loop(training);
    if (!loop.run()) return false;
    write_results(training, loop.parameters());
  }
  fs::remove(training.dir / factor_state);
  return true;
}

FactorModelScores read_factor_scores(const PreparedCorpus& corpus, const FactorSettings& settings,
                                     const fs::path& dir) {
  FactorModelScores scores;
  const CsvTable metrics = CsvTable::read(dir / factor_metrics);
  for (size_t row = 0; row < metrics.n_rows(); ++row) {
    if (metrics.text(row, metrics.column("split")) != factor_split_names[fitted_split(corpus)]) continue;
    scores.validation_total = metrics.number(row, metrics.column("total"));
    scores.validation_token = metrics.number(row, metrics.column("token"));
  }
  const json::Value stored = json::parse_file(dir / factor_scores_file);
  const json::Ref ref(stored, (dir / factor_scores_file).string());
  const auto number = [&](const char* key) {
    const auto found = ref.find(key);
    return found ? std::optional(found->number()) : std::nullopt;
  };
  scores.macro_f1 = number("macro_f1");
  scores.micro_f1 = number("micro_f1");
  scores.many_to_one_f1 = number("many_to_one_f1");
  scores.v_measure = number("v_measure");
  scores.adjusted_rand = number("adjusted_rand");
  const auto file = safetensors::File::open(dir / factor_outputs);
  const std::vector<double> pi = read_doubles(*file, "pi", {corpus.corpus->n_rows(), settings.n_factors});
  scores.test_factors = units_of(*corpus.corpus, std::vector<float>(pi.begin(), pi.end()), settings.n_factors,
                                 corpus.sentences[scored_split(corpus)], settings.word_level)
                            .factor;
  return scores;
}

}  // namespace signalbox::train
