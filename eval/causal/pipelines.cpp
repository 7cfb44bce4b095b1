#include "eval/causal/pipelines.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <set>
#include <span>

#include "base/error.h"
#include "eval/causal/direct_edges.h"
#include "eval/causal/recorded_run.h"
#include "eval/data/dice.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

using Change = DirectEdges::Change;
using ExpertKey = std::pair<int32_t, int32_t>;  // layer, expert

constexpr const char* banned_span = "with the sender";  // of a ban's job
constexpr size_t kept_tokens = 64;                      // contributions of a sender that serve as those of other tokens

// Sums by unit; units without a value are left out at the end.
struct UnitSums {
  std::vector<double> sums, counts;
  void add(size_t unit, double value, double count) {
    if (sums.size() <= unit) {
      sums.resize(unit + 1);
      counts.resize(unit + 1);
    }
    sums[unit] += value;
    counts[unit] += count;
  }
  ClusteredValues clustered() const {
    ClusteredValues out;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (!(counts[i] > 0)) continue;
      out.sums.push_back(sums[i]);
      out.counts.push_back(counts[i]);
    }
    return out;
  }
  double count() const {
    double all = 0;
    for (const double c : counts) all += c;
    return all;
  }
  double mean() const {
    double all = 0;
    for (const double s : sums) all += s;
    return all / count();
  }
};

// From an expert to another: a link, or a control of links to the same receiver.
struct Arrow {
  CausalNode to;
  bool link = false;
  UnitSums ban_selected, ban_logit, later_selected, later_logit, direct_selected, direct_logit, feeds, over_random;
  double selected = 0, flipped = 0, sizes = 0;  // sizes: of what the sender adds, over the tokens of feeds
  int64_t parts = 0;
  std::vector<double> random_logit, random_feeds, other_logit, other_feeds;  // [draw] sums
};

struct KeptToken {
  size_t record = 0;
  int64_t token = 0;
  std::vector<float> contribution;
};

struct Sender {
  CausalNode node;
  std::shared_ptr<const EditPlan> ban;
  std::map<int32_t, std::vector<size_t>> arrows;  // by the receiver's layer, indices into arrows
  bool links = false;
  int64_t seen = 0;  // tokens
  std::vector<KeptToken> kept;
  std::vector<double> mean;                // of what it adds: a direction
  std::vector<std::vector<double>> drawn;  // [draw] directions in place of it
};

// Routes and logits of one sample of a run.
class RoutesOf {
 public:
  RoutesOf(const ActivationStore& run, int64_t sample)
      : run_(run), sample_(sample), ids_(run.ids(run.rows(sample))), n_slots_(static_cast<size_t>(run.n_slots())) {}
  int64_t n_tokens() const { return run_.rows(sample_).size(); }
  // Its rank among the ids of the token's route, as contributions stand; -1: not selected.
  int64_t rank(int64_t token, const CausalNode& expert) const {
    const auto first = ids_.begin() + static_cast<ptrdiff_t>((static_cast<size_t>(token) * run_.layers().size() +
                                                              static_cast<size_t>(*run_.layer_index(expert.layer))) *
                                                             n_slots_);
    int64_t below = 0;
    bool found = false;
    for (auto id = first; id != first + static_cast<ptrdiff_t>(n_slots_); ++id) {
      found = found || *id == expert.index;
      below += *id >= 0 && *id < expert.index;
    }
    return found ? below : -1;
  }
  bool has(int64_t token, const CausalNode& expert) const { return rank(token, expert) >= 0; }
  double logit(int64_t token, const CausalNode& expert) const {
    return static_cast<double>(run_.row(Point::router_logits, expert.layer, sample_,
                                        static_cast<int32_t>(token))[static_cast<size_t>(expert.index)]);
  }
  std::span<const float> contribution(int64_t token, const CausalNode& expert, size_t d_model) const {
    return run_.row(Point::expert_contribution, expert.layer, sample_, static_cast<int32_t>(token))
        .subspan(static_cast<size_t>(rank(token, expert)) * d_model, d_model);
  }

 private:
  const ActivationStore& run_;
  int64_t sample_;
  std::vector<int32_t> ids_;
  size_t n_slots_;
};

double size_of(std::span<const float> row) {
  double squares = 0;
  for (const float x : row) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}

double normalise(std::vector<double>& row) {
  double squares = 0;
  for (const double x : row) squares += x * x;
  const double size = std::sqrt(squares);
  if (size > 0)
    for (double& x : row) x /= size;
  return size;
}

// A Gaussian direction, by Box and Muller.
std::vector<double> random_direction(size_t width, Dice& dice) {
  std::vector<double> row(width);
  for (double& x : row) {
    const double u = (static_cast<double>(dice.below(uint64_t{1} << 53)) + 1) / 9007199254740993.0,
                 v = static_cast<double>(dice.below(uint64_t{1} << 53)) / 9007199254740992.0;
    x = std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }
  normalise(row);
  return row;
}

std::vector<float> negated(std::span<const float> row) {
  std::vector<float> out(row.begin(), row.end());
  for (float& x : out) x = -x;
  return out;
}

class LinkStudy {
 public:
  LinkStudy(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
            const PipelineRequest& request);
  PipelineStudy run();

 private:
  bool stopped() const { return request_.interrupted != nullptr && *request_.interrupted; }
  Sender& sender_of(const CausalNode& node);
  void survey(size_t record);
  void choose_controls();
  bool measure(size_t record);
  bool measure_bans(size_t record, const RoutesOf& base);
  void measure_direct(size_t record, const std::shared_ptr<ActivationStore>& store, const RoutesOf& base);
  std::vector<Change> changes(size_t record, Sender& sender, int64_t token, std::span<const float> own, Dice& random,
                              Dice& others) const;
  void add_direct(const Sender& sender, size_t unit, int64_t token, const RoutesOf& base, DirectEdges& edges,
                  std::span<const Change> changes);
  void estimate(PipelineStudy& study) const;
  double of_matched(size_t link, double (*value)(const Arrow&)) const;

  const Session& session_;
  const std::vector<Record>& records_;
  const RecordJobs& made_;
  const PipelineRequest& request_;
  size_t d_model_;
  std::map<ExpertKey, Sender> senders_;
  std::vector<Arrow> arrows_;                 // links first
  std::vector<std::vector<size_t>> matched_;  // [link] arrows
  std::map<ExpertKey, int64_t> usage_;        // tokens
  std::vector<size_t> unit_of_;               // [record]
  size_t n_units_ = 0;
  PointSet surveyed_, of_base_, of_ban_;
};

LinkStudy::LinkStudy(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                     const PipelineRequest& request)
    : session_(session),
      records_(records),
      made_(made),
      request_(request),
      d_model_(static_cast<size_t>(session.model.d_model)),
      matched_(request.links.size()) {
  std::map<std::string, size_t> pairs;
  for (const Record& record : records) {
    if (record.pair.empty()) {
      unit_of_.push_back(n_units_++);
      continue;
    }
    const auto [found, added] = pairs.try_emplace(record.pair, n_units_);
    n_units_ += added;
    unit_of_.push_back(found->second);
  }
  std::set<int32_t> senders, receivers;
  for (const ExpertLink& link : request.links) {
    Sender& sender = sender_of(link.from);
    sender.links = true;
    sender.arrows[link.to.layer].push_back(arrows_.size());
    arrows_.push_back({});
    arrows_.back().to = link.to;
    arrows_.back().link = true;
    for (auto* draws : {&arrows_.back().random_logit, &arrows_.back().random_feeds, &arrows_.back().other_logit,
                        &arrows_.back().other_feeds})
      draws->assign(static_cast<size_t>(request.draws), 0.0);
    senders.insert(link.from.layer);
    receivers.insert(link.to.layer);
  }
  std::string globs = "*.router.ids", base = "*.router.ids,*.router.weights,*.router.logits";
  for (const int32_t l : senders) globs += "," + point_name(Point::expert_contribution, l);
  for (const int32_t l : receivers) base += "," + point_name(Point::resid_mid, l);
  receivers.insert(senders.begin(), senders.end());
  for (const int32_t l : receivers) base += "," + point_name(Point::expert_contribution, l);
  surveyed_ = PointSet::parse(globs, session.shape);
  of_base_ = PointSet::parse(base, session.shape);
  of_ban_ = PointSet::parse("*.router.ids,*.router.logits", session.shape);
}

Sender& LinkStudy::sender_of(const CausalNode& node) {
  const auto [found, added] = senders_.try_emplace({node.layer, node.index});
  Sender& sender = found->second;
  if (!added) return sender;
  sender.node = node;
  sender.mean.assign(d_model_, 0.0);
  json::Value experts = json::Value::object(), ids = json::Value::array(), edits = json::Value::array();
  ids.push_back(int64_t{node.index});
  experts.set(std::to_string(node.layer), std::move(ids));
  // At these tokens alone: where weights are not renormalised, a ban changes those of tokens that select others too.
  edits.push_back(json::Value::object()
                      .set("op", "deactivate")
                      .set("mode", "ban")
                      .set("experts", std::move(experts))
                      .set("tokens", json::Value::object().set("span", banned_span)));
  sender.ban = session_.edits(json::Ref(edits, "ban of " + node_name(node)), ".", 0);
  return sender;
}

// Who is selected where, and what senders add: their mean, and some tokens of it.
void LinkStudy::survey(size_t record) {
  const RecordedRun run = record_run(session_, made_.jobs[record], 1, surveyed_, "survey");
  const RoutesOf routes(*run.store, 0);
  const std::vector<int32_t> ids = run.store->ids(run.store->rows(0));
  const size_t n_layers = run.store->layers().size(), n_slots = static_cast<size_t>(run.store->n_slots());
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0) ++usage_[{run.store->layers()[i / n_slots % n_layers], ids[i]}];
  for (auto& [key, sender] : senders_) {
    Dice dice(request_.resamples.seed, "other tokens " + node_name(sender.node) + " " + std::to_string(record));
    for (int64_t t = 0; t < routes.n_tokens(); ++t) {
      if (!routes.has(t, sender.node)) continue;
      const std::span<const float> row = routes.contribution(t, sender.node, d_model_);
      for (size_t c = 0; c < d_model_; ++c) sender.mean[c] += static_cast<double>(row[c]);
      // A reservoir: each token so far is in it with the same probability.
      const uint64_t place = dice.below(static_cast<uint64_t>(++sender.seen));
      KeptToken one{record, t, {row.begin(), row.end()}};
      if (sender.kept.size() < kept_tokens)
        sender.kept.push_back(std::move(one));
      else if (place < kept_tokens)
        sender.kept[place] = std::move(one);
    }
  }
}

// Of each link, the experts of u's layer that are selected about as often and are not themselves linked to v.
void LinkStudy::choose_controls() {
  for (auto& [key, sender] : senders_) {
    normalise(sender.mean);
    for (int64_t d = 0; d < request_.draws; ++d) {
      Dice dice(request_.resamples.seed, "random " + node_name(sender.node) + " " + std::to_string(d));
      sender.drawn.push_back(random_direction(d_model_, dice));
    }
  }
  std::map<std::pair<ExpertKey, ExpertKey>, size_t> made;
  for (size_t i = 0; i < request_.links.size(); ++i) {
    const CausalNode &from = request_.links[i].from, &to = request_.links[i].to;
    const auto used = usage_.find({from.layer, from.index});
    if (used == usage_.end()) continue;
    std::vector<std::pair<int64_t, int32_t>> others;  // difference, expert
    for (const auto& [key, count] : usage_) {
      if (key.first != from.layer || key.second == from.index) continue;
      const bool linked =
          std::any_of(request_.links.begin(), request_.links.end(), [&, expert = key](const ExpertLink& link) {
            return link.to == to && ExpertKey{link.from.layer, link.from.index} == expert;
          });
      if (!linked) others.emplace_back(std::abs(count - used->second), key.second);
    }
    std::sort(others.begin(), others.end());
    if (static_cast<int64_t>(others.size()) > request_.matched) others.resize(static_cast<size_t>(request_.matched));
    for (const auto& [difference, expert] : others) {
      const auto [found, added] = made.try_emplace({{from.layer, expert}, {to.layer, to.index}}, arrows_.size());
      if (added) {
        sender_of({CausalNode::Kind::expert, from.layer, expert}).arrows[to.layer].push_back(arrows_.size());
        arrows_.push_back({});
        arrows_.back().to = to;
      }
      matched_[i].push_back(found->second);
    }
  }
}

bool LinkStudy::measure(size_t record) {
  const RecordedRun run = record_run(session_, made_.jobs[record], 1, of_base_, "base");
  const RoutesOf base(*run.store, 0);
  if (!measure_bans(record, base)) return false;
  measure_direct(record, run.store, base);
  return !stopped();
}

bool LinkStudy::measure_bans(size_t record, const RoutesOf& base) {
  const int64_t n = base.n_tokens();
  std::vector<const Sender*> used;
  for (const auto& [key, sender] : senders_)
    for (int64_t t = 0; t < n; ++t)
      if (base.has(t, sender.node)) {
        used.push_back(&sender);
        break;
      }
  RunOptions options = session_.options;
  options.interrupted = request_.interrupted;
  const auto at_once = static_cast<size_t>(std::max<int64_t>(1, options.batch));
  for (size_t begin = 0; begin < used.size(); begin += at_once) {
    const size_t end = std::min(used.size(), begin + at_once);
    std::vector<Job> jobs;
    std::vector<std::string> ids;
    for (size_t i = begin; i < end; ++i) {
      jobs.push_back(made_.jobs[record]);
      jobs.back().plan = used[i]->ban;
      jobs.back().spans.clear();
      for (int64_t t = 0; t < n; ++t)
        if (base.has(t, used[i]->node)) jobs.back().spans.push_back({banned_span, t, t + 1});
      jobs.back().index = static_cast<int64_t>(i - begin);
      ids.push_back(node_name(used[i]->node));
    }
    ActivationStore store("bans", session_.shape, of_ban_);
    if (!session_.run(jobs, options, {}, &store)) return false;
    store.finish(ids);
    for (size_t i = begin; i < end; ++i) {
      const RoutesOf banned(store, static_cast<int64_t>(i - begin));
      const CausalNode& from = used[i]->node;
      for (const auto& [layer, group] : used[i]->arrows)
        for (const size_t index : group) {
          Arrow& arrow = arrows_[index];
          const size_t unit = arrow.link ? unit_of_[record] : 0;
          bool begun = false;
          for (int64_t t = 0; t < n; ++t) {
            const bool here = base.has(t, from), was = base.has(t, arrow.to);
            begun = begun || here;
            if (!begun || (!here && !arrow.link)) continue;
            const double change = static_cast<double>(banned.has(t, arrow.to)) - static_cast<double>(was);
            const double logit = banned.logit(t, arrow.to) - base.logit(t, arrow.to);
            (here ? arrow.ban_selected : arrow.later_selected).add(unit, change, 1);
            (here ? arrow.ban_logit : arrow.later_logit).add(unit, logit, 1);
            arrow.selected += here && was;
          }
        }
    }
  }
  return true;
}

// Without what the sender adds; where it has links, then the controls: other tokens', then random ones.
std::vector<Change> LinkStudy::changes(size_t record, Sender& sender, int64_t token, std::span<const float> own,
                                       Dice& random, Dice& others) const {
  std::vector<Change> made = {{sender.node, negated(own)}};
  if (!sender.links) return made;
  std::vector<const KeptToken*> kept;
  for (const KeptToken& one : sender.kept)
    if (one.record != record || one.token != token) kept.push_back(&one);
  for (int64_t d = 0; d < request_.draws && !kept.empty(); ++d)
    made.push_back({sender.node, negated(others.pick(kept)->contribution)});
  const double size = size_of(own);
  double along = 0;
  for (size_t c = 0; c < d_model_; ++c) along += static_cast<double>(own[c]) * sender.mean[c];
  along = size > 0 ? std::clamp(along / size, -1.0, 1.0) : 1;
  const double across = std::sqrt(1 - along * along);
  for (const std::vector<double>& direction : sender.drawn) {
    std::vector<double> rest(d_model_, 0.0);
    if (across > 1e-6) {
      rest = random_direction(d_model_, random);
      double shared = 0;
      for (size_t c = 0; c < d_model_; ++c) shared += rest[c] * direction[c];
      for (size_t c = 0; c < d_model_; ++c) rest[c] -= shared * direction[c];
      normalise(rest);
    }
    Change& change = made.emplace_back(Change{sender.node, std::vector<float>(d_model_)});
    for (size_t c = 0; c < d_model_; ++c)
      change.delta[c] = static_cast<float>(size * (along * direction[c] + across * rest[c]));
  }
  return made;
}

void LinkStudy::measure_direct(size_t record, const std::shared_ptr<ActivationStore>& store, const RoutesOf& base) {
  DirectEdges edges(session_, store, store, {});
  for (auto& [key, sender] : senders_) {
    if (stopped()) return;
    const std::string name = node_name(sender.node) + " " + std::to_string(record);
    Dice random(request_.resamples.seed, "random tokens " + name), others(request_.resamples.seed, "others " + name);
    for (int64_t t = 0; t < base.n_tokens(); ++t) {
      if (!base.has(t, sender.node)) continue;
      const std::vector<Change> made =
          changes(record, sender, t, base.contribution(t, sender.node, d_model_), random, others);
      add_direct(sender, unit_of_[record], t, base, edges, made);
    }
  }
}

void LinkStudy::add_direct(const Sender& sender, size_t record_unit, int64_t token, const RoutesOf& base,
                           DirectEdges& edges, std::span<const Change> changes) {
  const auto position = static_cast<int32_t>(token);
  const size_t draws = static_cast<size_t>(request_.draws), n_random = sender.links ? draws : 0,
               n_other = changes.size() - 1 - n_random;
  for (const auto& [layer, group] : sender.arrows) {
    const std::vector<DirectEdges::RouterEdge> routes = edges.router(layer, position, changes);
    for (const size_t index : group) {
      Arrow& arrow = arrows_[index];
      const size_t unit = arrow.link ? record_unit : 0;
      const auto e = static_cast<size_t>(arrow.to.index);
      const auto logit = [&](size_t change) { return static_cast<double>(routes[change].logits[e]); };
      const auto among = [&](const std::vector<int32_t>& ids) {
        return std::binary_search(ids.begin(), ids.end(), arrow.to.index);
      };
      const bool comes = among(routes[0].entered), goes = among(routes[0].left);
      arrow.direct_selected.add(unit, static_cast<double>(comes) - static_cast<double>(goes), 1);
      arrow.flipped += comes || goes;
      arrow.direct_logit.add(unit, logit(0), 1);
      if (arrow.link) {
        for (size_t d = 0; d < n_other; ++d) arrow.other_logit[d] += logit(1 + d);
        for (size_t d = 0; d < n_random; ++d) arrow.random_logit[d] += logit(1 + n_other + d);
      }
      if (!base.has(token, arrow.to)) continue;
      const double whole = size_of(base.contribution(token, arrow.to, d_model_));
      if (!(whole > 0)) continue;
      const std::vector<std::vector<float>> content =
          edges.content(arrow.to, position, arrow.link ? changes : changes.first(1));
      const double own = size_of(content[0]);
      arrow.feeds.add(unit, own, whole);
      arrow.sizes += size_of(changes[0].delta);
      ++arrow.parts;
      if (!arrow.link) continue;
      double mean = 0;
      for (size_t d = 0; d < n_other; ++d) arrow.other_feeds[d] += size_of(content[1 + d]);
      for (size_t d = 0; d < n_random; ++d) {
        const double drawn = size_of(content[1 + n_other + d]);
        arrow.random_feeds[d] += drawn;
        mean += drawn / static_cast<double>(n_random);
      }
      arrow.over_random.add(unit, own - mean, whole);
    }
  }
}

// The 95th percentile of sizes.
double high_of(std::vector<double> values) {
  for (double& x : values) x = std::fabs(x);
  std::sort(values.begin(), values.end());
  return values.empty() ? no_number : quantile(values, 0.95);
}

double LinkStudy::of_matched(size_t link, double (*value)(const Arrow&)) const {
  std::vector<double> values;
  for (const size_t arrow : matched_[link])
    if (const double one = value(arrows_[arrow]); std::isfinite(one)) values.push_back(one);
  return high_of(std::move(values));
}

void LinkStudy::estimate(PipelineStudy& study) const {
  const size_t n = request_.links.size();
  const auto family = [&](UnitSums Arrow::*sums) {
    std::vector<ClusteredValues> columns;
    for (size_t i = 0; i < n; ++i) columns.push_back((arrows_[i].*sums).clustered());
    return estimate_family(columns, request_.resamples);
  };
  const auto put = [&](UnitSums Arrow::*sums, PairedEstimate LinkEffects::*to) {
    const std::vector<PairedEstimate> found = family(sums);
    for (size_t i = 0; i < n; ++i) study.links[i].*to = found[i];
  };
  put(&Arrow::ban_selected, &LinkEffects::ban_selected);
  put(&Arrow::ban_logit, &LinkEffects::ban_logit);
  put(&Arrow::later_selected, &LinkEffects::later_selected);
  put(&Arrow::later_logit, &LinkEffects::later_logit);
  put(&Arrow::direct_selected, &LinkEffects::direct_selected);
  put(&Arrow::direct_logit, &LinkEffects::direct_logit);
  put(&Arrow::over_random, &LinkEffects::feeds_over_random);
  const std::vector<PairedEstimate> feeds = family(&Arrow::feeds);
  for (size_t i = 0; i < n; ++i) {
    LinkEffects& link = study.links[i];
    const Arrow& arrow = arrows_[i];
    const double tokens = arrow.ban_logit.count(), parts = arrow.feeds.count();
    link.tokens = static_cast<int64_t>(tokens);
    link.later_tokens = static_cast<int64_t>(arrow.later_logit.count());
    link.both_tokens = static_cast<int64_t>(arrow.selected);
    link.matched = static_cast<int64_t>(matched_[i].size());
    link.feeds = {feeds[i].mean, feeds[i].ci, feeds[i].n};
    if (link.tokens > 0) {
      link.selected = arrow.selected / tokens;
      link.direct_flipped = arrow.flipped / tokens;
      const auto control = [](const std::vector<double>& sums, double count) {
        std::vector<double> means;
        for (const double sum : sums) means.push_back(sum / count);
        return count > 0 ? high_of(std::move(means)) : no_number;
      };
      const bool others = senders_.at({request_.links[i].from.layer, request_.links[i].from.index}).seen > 1;
      link.ban_matched = of_matched(i, [](const Arrow& a) { return a.ban_logit.mean(); });
      link.direct_controls = {control(arrow.random_logit, tokens),
                              of_matched(i, [](const Arrow& a) { return a.direct_logit.mean(); }),
                              others ? control(arrow.other_logit, tokens) : no_number};
      // Matched experts as if what they add were as large as what the sender adds.
      const double size_of_own = arrow.parts > 0 ? arrow.sizes / static_cast<double>(arrow.parts) : no_number;
      link.feeds_controls = {
          control(arrow.random_feeds, parts),
          size_of_own *
              of_matched(i, [](const Arrow& a) { return a.feeds.mean() * static_cast<double>(a.parts) / a.sizes; }),
          others ? control(arrow.other_feeds, parts) : no_number};
    }
    link.verdict = judge_link(link);
  }
}

PipelineStudy LinkStudy::run() {
  PipelineStudy study;
  study.records = static_cast<int64_t>(records_.size());
  study.units = static_cast<int64_t>(n_units_);
  for (const Job& job : made_.jobs) study.tokens += job.n_given();
  study.links.resize(request_.links.size());
  study.interrupted = true;
  for (size_t r = 0; r < records_.size(); ++r) {
    if (stopped()) return study;
    survey(r);
    if (request_.on_surveyed) request_.on_surveyed(static_cast<int64_t>(r) + 1);
  }
  choose_controls();
  study.banned = static_cast<int64_t>(senders_.size());
  for (size_t r = 0; r < records_.size(); ++r) {
    if (stopped() || !measure(r)) return study;
    if (request_.on_measured) request_.on_measured(static_cast<int64_t>(r) + 1);
  }
  study.interrupted = false;
  estimate(study);
  return study;
}

}  // namespace

PipelineStudy study_pipelines(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                              const PipelineRequest& request) {
  return LinkStudy(session, records, made, request).run();
}

}  // namespace signalbox::eval
