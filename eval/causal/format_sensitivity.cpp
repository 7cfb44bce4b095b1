#include "eval/causal/format_sensitivity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/no_number.h"
#include "eval/causal/answer_runs.h"

namespace signalbox::eval {

using namespace engine;

namespace {

constexpr std::array<const char*, 2> place_names = {"answer", "aligned"};
constexpr std::array<const char*, 2> direction_names = {"denoising", "noising"};

// Tokens of the base and of the variant that stand for each other, ascending: the answer's positions, and those of the
// longest common end, as far as it does not reach into the common beginning, whose tokens are the same anyway.
using Alignment = std::vector<std::pair<int64_t, int64_t>>;
Alignment align(const std::vector<int32_t>& base, const std::vector<int32_t>& variant, int64_t base_answer,
                int64_t variant_answer) {
  const auto n = static_cast<int64_t>(base.size()), m = static_cast<int64_t>(variant.size());
  const int64_t shorter = std::min(n, m);
  const auto token = [](const std::vector<int32_t>& of, int64_t i) { return of[static_cast<size_t>(i)]; };
  int64_t begin = 0, end = 0;
  while (begin < shorter && token(base, begin) == token(variant, begin)) ++begin;
  while (end < shorter - begin && token(base, n - 1 - end) == token(variant, m - 1 - end)) ++end;
  Alignment out;
  for (int64_t i = end; i > 0; --i) out.emplace_back(n - i, m - i);
  if (out.empty() || out.front().first > base_answer) out.insert(out.begin(), {base_answer, variant_answer});
  return out;
}

struct Question {
  size_t base = 0;
  std::vector<size_t> variants;
};

// Values by variant, layer and so on; the question is the unit.
using Key = std::array<size_t, 4>;

class FormatRuns {
 public:
  FormatRuns(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
             const FormatRequest& request)
      : session_(session),
        records_(records),
        made_(made),
        request_(request),
        runs_(session, request.step_tokens, request.step_cells),
        routed_(session.model.moe_layers()) {
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < records.size(); ++i) {
      rows_.push_back(metric_rows(Metric::logprob, records[i], made.encoded[i], session.encode));
      const auto [at, is_new] = places.try_emplace(records[i].pair, questions_.size());
      if (is_new) questions_.emplace_back();
      Question& question = questions_[at->second];
      if (records[i].condition == base_format) {
        question.base = i;
        continue;
      }
      question.variants.push_back(i);
      if (std::find(variants_.begin(), variants_.end(), records[i].condition) == variants_.end())
        variants_.push_back(records[i].condition);
    }
  }
  FormatStudy run();

 private:
  bool stopped() const { return request_.interrupted && *request_.interrupted; }
  void tick(int64_t runs) {
    done_ += runs;
    if (request_.on_progress) request_.on_progress(done_);
  }
  int64_t n_layers() const { return session_.model.n_layers(); }
  size_t variant_of(size_t record) const {
    return static_cast<size_t>(std::find(variants_.begin(), variants_.end(), records_[record].condition) -
                               variants_.begin());
  }
  std::span<const float> state(size_t record, int64_t layer) const {
    return std::span(answers_[record])
        .subspan(static_cast<size_t>(layer * session_.model.d_model), static_cast<size_t>(session_.model.d_model));
  }
  bool is_right(size_t record) const;
  void run_all(FormatStudy& study);
  void tell_behaviour(FormatStudy& study);
  void compare_and_patch(FormatStudy& study);
  // What comparing one variant of one question gives.
  struct PlaceValue {
    size_t layer = 0, place = 0;
    double cosine = 0, rel_change = 0, jaccard = 0, identified = 0;
  };
  struct PatchValue {
    size_t layer = 0, place = 0, direction = 0;
    double effect = 0, gap = 0;  // gap: log p of the base - that of the variant
  };
  struct Compared {
    std::vector<PlaceValue> places;
    std::vector<PatchValue> patches;
  };
  Compared compared(size_t question, size_t record);
  void compare(size_t question, size_t record, const AnswerRun& base, const AnswerRun& variant, const Alignment& pairs,
               Compared& found) const;
  void patch(size_t direction, const AnswerRun& to, const AnswerRun& from, const Alignment& pairs, Compared& found);
  static json::Value line_of(const Compared& found);
  static Compared read_line(const json::Ref& line);
  void tell_states(FormatStudy& study);
  void tell_patches(FormatStudy& study);
  double identified(size_t question, size_t record, int64_t layer) const;

  const Session& session_;
  const std::vector<Record>& records_;
  const RecordJobs& made_;
  const FormatRequest& request_;
  AnswerRuns runs_;
  int64_t done_ = 0;
  std::vector<int32_t> routed_;
  std::vector<Question> questions_;
  std::vector<std::string> variants_;
  std::vector<MetricRows> rows_;             // [records]
  std::vector<std::vector<float>> answers_;  // [records] the streams at the answer [n_layers, d_model]
  std::vector<double> logprob_;              // [records]
  std::vector<std::vector<int32_t>> likeliest_;
  std::vector<std::vector<double>> answer_centre_, token_centre_;  // [layers] of the base records
  struct Place {  // of a variant, layer and place: a value each of questions
    UnitValues cosine, rel_change, jaccard, identified;
  };
  std::map<std::array<size_t, 3>, Place> places_;
  struct Patch {
    UnitValues effect;
    std::vector<double> gap;  // log p of the base - that of the variant
  };
  std::map<Key, Patch> patches_;  // variant, layer, place, direction
};

bool FormatRuns::is_right(size_t record) const {
  const std::vector<int32_t>& targets = rows_[record].targets;  // the last row predicts nothing
  return std::equal(likeliest_[record].begin(), likeliest_[record].end(), targets.begin(), targets.end() - 1);
}

double mean_of(const std::vector<double>& x) {
  double sum = 0;
  for (const double one : x) sum += one;
  return x.empty() ? no_number : sum / static_cast<double>(x.size());
}

// Each question's value less the mean of those of its other variants; by unit, in the order of `own`.
UnitValues less_others(const UnitValues& own, const std::vector<const UnitValues*>& others) {
  std::map<int64_t, std::pair<double, int64_t>> sums;
  for (const UnitValues* other : others)
    for (size_t i = 0; i < other->values.size(); ++i) {
      auto& [sum, n] = sums[other->units[i]];
      sum += other->values[i];
      ++n;
    }
  UnitValues out;
  for (size_t i = 0; i < own.values.size(); ++i)
    if (const auto found = sums.find(own.units[i]); found != sums.end())
      out.add(own.values[i] - found->second.first / static_cast<double>(found->second.second), own.units[i]);
  return out;
}

void FormatRuns::run_all(FormatStudy& study) {
  const auto layers = static_cast<size_t>(n_layers()), d = static_cast<size_t>(session_.model.d_model);
  answer_centre_.assign(layers, std::vector<double>(d));
  token_centre_ = answer_centre_;
  int64_t tokens = 0;
  for (size_t i = 0; i < records_.size(); ++i) {
    if (stopped()) {
      study.interrupted = true;
      return;
    }
    const bool base = records_[i].condition == base_format;
    const int64_t answer = made_.jobs[i].n_given() - rows_[i].n_rows();
    const AnswerRun run = runs_.run(made_.jobs[i], rows_[i], base ? 0 : answer);
    logprob_.push_back(run.logprob);
    likeliest_.push_back(run.likeliest);
    answers_.emplace_back();
    for (size_t l = 0; l < layers; ++l) {
      const auto layer = static_cast<int64_t>(l);
      const std::span<const float> own = run.stream(layer, answer);
      answers_.back().insert(answers_.back().end(), own.begin(), own.end());
      if (!base) continue;
      for (size_t c = 0; c < d; ++c) answer_centre_[l][c] += static_cast<double>(own[c]);
      for (int64_t t = 0; t < run.n_tokens; ++t)
        for (size_t c = 0; c < d; ++c) token_centre_[l][c] += static_cast<double>(run.stream(layer, t)[c]);
    }
    if (base) tokens += run.n_tokens;
    tick(1);
  }
  for (size_t l = 0; l < layers; ++l)
    for (size_t c = 0; c < d; ++c) {
      answer_centre_[l][c] /= static_cast<double>(questions_.size());
      token_centre_[l][c] /= static_cast<double>(tokens);
    }
}

void FormatRuns::tell_behaviour(FormatStudy& study) {
  std::vector<UnitValues> deltas(variants_.size());
  study.behaviour.resize(variants_.size());
  for (size_t q = 0; q < questions_.size(); ++q)
    for (const size_t record : questions_[q].variants) {
      const size_t v = variant_of(record), base = questions_[q].base;
      FormatBehaviour& row = study.behaviour[v];
      deltas[v].add(logprob_[record] - logprob_[base], static_cast<int64_t>(q));
      ++row.n;
      row.same_tokens += made_.encoded[record].prompt->tokens == made_.encoded[base].prompt->tokens;
      row.base_logprob += logprob_[base];
      row.logprob += logprob_[record];
      row.flips += likeliest_[record] != likeliest_[base];
      row.base_right += is_right(base);
      row.right += is_right(record);
    }
  std::vector<UnitValues> over;
  for (size_t v = 0; v < variants_.size(); ++v) {
    std::vector<const UnitValues*> others;
    for (size_t o = 0; o < variants_.size(); ++o)
      if (o != v) others.push_back(&deltas[o]);
    over.push_back(less_others(deltas[v], others));
  }
  const std::vector<PairedEstimate> of_deltas = estimate_family(deltas, request_.resamples),
                                    of_over = estimate_family(over, request_.resamples);
  for (size_t v = 0; v < variants_.size(); ++v) {
    FormatBehaviour& row = study.behaviour[v];
    row.variant = variants_[v];
    for (double* x : {&row.base_logprob, &row.logprob, &row.flips, &row.base_right, &row.right})
      *x /= static_cast<double>(row.n);
    row.delta = of_deltas[v];
    row.over_others = of_over[v];
  }
}

double FormatRuns::identified(size_t question, size_t record, int64_t layer) const {
  const std::vector<double>& centre = answer_centre_[static_cast<size_t>(layer)];
  const double own = centred_cosine(state(record, layer), state(questions_[question].base, layer), centre);
  double below = 0;
  for (size_t q = 0; q < questions_.size(); ++q) {
    if (q == question) continue;
    const double other = centred_cosine(state(record, layer), state(questions_[q].base, layer), centre);
    below += other < own ? 1 : other == own ? 0.5 : 0;
  }
  return questions_.size() > 1 ? below / static_cast<double>(questions_.size() - 1) : no_number;
}

void FormatRuns::compare(size_t question, size_t record, const AnswerRun& base, const AnswerRun& variant,
                         const Alignment& pairs, Compared& found) const {
  for (int64_t l = 0; l < n_layers(); ++l)
    for (const size_t place : {size_t{0}, size_t{1}}) {
      const std::vector<double>& centre = (place == 0 ? answer_centre_ : token_centre_)[static_cast<size_t>(l)];
      const auto routed = std::lower_bound(routed_.begin(), routed_.end(), l);
      const bool has_router = routed != routed_.end() && *routed == l;
      std::vector<double> cosine, rel, jaccard;
      for (const auto& [a, b] : pairs) {
        if ((a == base.answer) != (place == 0)) continue;
        const std::span<const float> x = base.stream(l, a), y = variant.stream(l, b);
        cosine.push_back(centred_cosine(x, y, centre));
        double change = 0, size = 0;
        for (size_t c = 0; c < x.size(); ++c) {
          change += std::pow(static_cast<double>(y[c]) - static_cast<double>(x[c]), 2);
          size += std::pow(static_cast<double>(x[c]), 2);
        }
        rel.push_back(std::sqrt(change / size));
        if (has_router)
          jaccard.push_back(
              route_jaccard(base.route(routed - routed_.begin(), a), variant.route(routed - routed_.begin(), b)));
      }
      if (cosine.empty()) continue;
      found.places.push_back({static_cast<size_t>(l), place, mean_of(cosine), mean_of(rel), mean_of(jaccard),
                              place == 0 ? identified(question, record, l) : no_number});
    }
}

// `to` is the run that was made last, and gets the rows of `from`.
void FormatRuns::patch(size_t direction, const AnswerRun& to, const AnswerRun& from, const Alignment& pairs,
                       Compared& found) {
  std::vector<ReplacedStream> cells;
  for (int64_t l = 0; l < n_layers(); ++l)
    for (size_t place = 0; place < place_names.size(); ++place) {
      ReplacedStream cell;
      cell.layer = l;
      for (const auto& [base, variant] : pairs) {
        const auto [target, source] = direction == 0 ? std::pair(variant, base) : std::pair(base, variant);
        if (place == 0 && target != to.answer) continue;
        cell.rows.emplace_back(target, from.stream(l, source).data());
      }
      cells.push_back(std::move(cell));
    }
  const std::vector<AnswerValue> values = runs_.replaced(to, cells);
  const double gap = direction == 0 ? from.logprob - to.logprob : to.logprob - from.logprob;
  for (size_t i = 0; i < values.size(); ++i)
    found.patches.push_back(
        {static_cast<size_t>(cells[i].layer), i % place_names.size(), direction, values[i].logprob - to.logprob, gap});
  tick(1 + static_cast<int64_t>(values.size()));
}

json::Value FormatRuns::line_of(const Compared& found) {
  json::Value places = json::Value::array(), patches = json::Value::array();
  for (const PlaceValue& of : found.places) {
    json::Value row = json::Value::array();
    row.push_back(static_cast<int64_t>(of.layer)).push_back(static_cast<int64_t>(of.place));
    for (const double x : {of.cosine, of.rel_change, of.jaccard, of.identified}) row.push_back(x);
    places.push_back(std::move(row));
  }
  for (const PatchValue& of : found.patches) {
    json::Value row = json::Value::array();
    for (const size_t x : {of.layer, of.place, of.direction}) row.push_back(static_cast<int64_t>(x));
    patches.push_back(std::move(row.push_back(of.effect).push_back(of.gap)));
  }
  return json::Value::object().set("places", std::move(places)).set("patches", std::move(patches));
}

FormatRuns::Compared FormatRuns::read_line(const json::Ref& line) {
  const auto index = [](const json::Ref& of) { return static_cast<size_t>(of.size()); };
  const auto number = [](const json::Ref& of) { return of.is_null() ? no_number : of.number(); };
  Compared found;
  for (const json::Ref& row : line.at("places").items())
    found.places.push_back(
        {index(row[0]), index(row[1]), number(row[2]), number(row[3]), number(row[4]), number(row[5])});
  for (const json::Ref& row : line.at("patches").items())
    found.patches.push_back({index(row[0]), index(row[1]), index(row[2]), row[3].number(), row[4].number()});
  return found;
}

FormatRuns::Compared FormatRuns::compared(size_t q, size_t record) {
  const Question& question = questions_[q];
  const AnswerRun base = runs_.run(made_.jobs[question.base], rows_[question.base], 0);
  const AnswerRun variant = runs_.run(made_.jobs[record], rows_[record], 0);
  const Alignment pairs = align(made_.encoded[question.base].prompt->tokens, made_.encoded[record].prompt->tokens,
                                base.answer, variant.answer);
  Compared found;
  compare(q, record, base, variant, pairs, found);
  patch(0, variant, base, pairs, found);
  const AnswerRun again = runs_.run(made_.jobs[question.base], rows_[question.base], 0);
  patch(1, again, variant, pairs, found);
  return found;
}

void FormatRuns::compare_and_patch(FormatStudy& study) {
  std::vector<std::string> ids;
  for (const Question& question : questions_)
    for (const size_t record : question.variants) ids.push_back(records_[record].id);
  KeptItems kept(request_.kept, std::move(ids), "variants");
  size_t item = 0;
  for (size_t q = 0; q < questions_.size(); ++q)
    for (const size_t record : questions_[q].variants) {
      if (stopped()) {
        study.interrupted = true;
        return;
      }
      Compared found;
      if (const json::Value known = kept.find(item); !known.is_null()) {
        found = read_line(json::Ref(known, records_[record].id));
        tick(2 + static_cast<int64_t>(found.patches.size()));
      } else {
        found = compared(q, record);
        kept.put(item, line_of(found));
      }
      ++item;
      const size_t variant = variant_of(record);
      const auto unit = static_cast<int64_t>(q);
      for (const PlaceValue& of : found.places) {
        Place& to = places_[{variant, of.layer, of.place}];
        to.cosine.add(of.cosine, unit);
        to.rel_change.add(of.rel_change, unit);
        to.jaccard.add(of.jaccard, unit);
        to.identified.add(of.identified, unit);
      }
      for (const PatchValue& of : found.patches) {
        Patch& to = patches_[{variant, of.layer, of.place, of.direction}];
        to.effect.add(of.effect, unit);
        to.gap.push_back(of.gap);
      }
    }
  kept.finish();
}

void FormatRuns::tell_states(FormatStudy& study) {
  for (const size_t place : {size_t{0}, size_t{1}})
    for (size_t v = 0; v < variants_.size(); ++v) {
      std::vector<UnitValues> over;
      std::vector<FormatStates> rows;
      for (int64_t l = 0; l < n_layers(); ++l) {
        const auto layer = static_cast<size_t>(l);
        const auto found = places_.find({v, layer, place});
        if (found == places_.end()) continue;
        const Place& of = found->second;
        rows.push_back({static_cast<int32_t>(l),
                        variants_[v],
                        place == 0 ? "answer" : "shared",
                        static_cast<int64_t>(of.cosine.values.size()),
                        mean_of(of.cosine.values),
                        mean_of(of.rel_change.values),
                        mean_of(of.jaccard.values),
                        mean_of(of.identified.values),
                        {}});
        std::vector<const UnitValues*> others;
        for (size_t o = 0; o < variants_.size(); ++o)
          if (const auto other = places_.find({o, layer, place}); o != v && other != places_.end())
            others.push_back(&other->second.cosine);
        over.push_back(less_others(of.cosine, others));
      }
      const std::vector<PairedEstimate> estimates = estimate_family(over, request_.resamples);
      for (size_t i = 0; i < rows.size(); ++i) {
        rows[i].over_others = estimates[i];
        study.states.push_back(rows[i]);
      }
    }
}

void FormatRuns::tell_patches(FormatStudy& study) {
  for (size_t v = 0; v < variants_.size(); ++v)
    for (size_t place = 0; place < place_names.size(); ++place)
      for (size_t direction = 0; direction < direction_names.size(); ++direction) {
        std::vector<UnitValues> effects;
        for (int64_t l = 0; l < n_layers(); ++l)
          effects.push_back(patches_[{v, static_cast<size_t>(l), place, direction}].effect);
        const std::vector<PairedEstimate> estimates = estimate_family(effects, request_.resamples);
        for (int64_t l = 0; l < n_layers(); ++l) {
          const Patch& patch = patches_[{v, static_cast<size_t>(l), place, direction}];
          std::vector<double> towards = patch.effect.values;  // from the one format towards the other
          if (direction == 1)
            for (double& x : towards) x = -x;
          study.patches.push_back({static_cast<int32_t>(l), variants_[v], place_names[place],
                                   direction_names[direction], static_cast<int64_t>(towards.size()),
                                   estimates[static_cast<size_t>(l)],
                                   ratio_of_means(towards, patch.gap, request_.resamples)});
        }
      }
}

FormatStudy FormatRuns::run() {
  FormatStudy study;
  study.questions = static_cast<int64_t>(questions_.size());
  run_all(study);
  if (study.interrupted) return study;
  tell_behaviour(study);
  compare_and_patch(study);
  if (study.interrupted) return study;
  tell_states(study);
  tell_patches(study);
  return study;
}

}  // namespace

int64_t format_runs(const Session& session, const std::vector<Record>& records) {
  int64_t runs = static_cast<int64_t>(records.size());
  for (const Record& record : records)
    if (record.condition != base_format)
      runs += 2 * (1 + session.model.n_layers() * static_cast<int64_t>(place_names.size()));
  return runs;
}

FormatStudy study_format(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                         const FormatRequest& request) {
  return FormatRuns(session, records, made, request).run();
}

}  // namespace signalbox::eval
