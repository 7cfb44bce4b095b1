#include "eval/routing/pipelines.h"

#include <algorithm>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/count_by_domain.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

using Chain = std::vector<Link>;

// At most one link leaves and enters an expert, and links are in the order of layers.
std::vector<Chain> chains_of(const std::vector<Link>& links, size_t shortest) {
  std::vector<Chain> chains;
  for (const Link& link : links) {
    const auto before = std::find_if(chains.begin(), chains.end(), [&](const Chain& chain) {
      return chain.back().layer + 1 == link.layer && chain.back().to == link.from;
    });
    if (before == chains.end())
      chains.push_back({link});
    else
      before->push_back(link);
  }
  std::erase_if(chains, [&](const Chain& chain) { return chain.size() < shortest; });
  return chains;
}

bool has(const int32_t* route, int64_t n_slots, int32_t expert) {
  return std::find(route, route + n_slots, expert) != route + n_slots;
}

void name_domains(const TraceSet& set, const RouteOptions& options, const std::vector<Chain>& chains,
                  std::vector<Pipeline>& found) {
  const DomainCounts counts =
      count_by_domain(set, options, chains.size(), [&](int32_t* mine, const SampleRoutes& routes) {
        for (size_t c = 0; c < chains.size(); ++c)
          for (const Link& link : chains[c])
            for (int64_t token = 0; token < routes.n(); ++token)
              mine[c] += has(routes.route(token, link.layer), routes.n_slots, link.from) &&
                         has(routes.route(token, link.layer + 1), routes.n_slots, link.to);
      });
  const std::vector<DomainRatio> ratios =
      domain_ratios(counts, options.seed, options.resamples, threads_of(options), nullptr);
  std::vector<double> p;
  for (const DomainRatio& one : ratios) p.push_back(one.p);
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t c = 0; c < chains.size(); ++c) {
    found[c].domain_ratio = ratios[c].ratio;
    found[c].domain_p = p[c];
    found[c].domain_q = q[c];
    if (q[c] <= pipeline_domain_q) found[c].domain = counts.domains[ratios[c].domain];
  }
}

// What the two halves say of all links of some chains, and of what is left of them without the tokens' identity.
void describe(const TraceSet& set, const RouteOptions& options, const Units& units, const std::vector<uint8_t>& half_of,
              const std::vector<Chain>& chains, std::vector<Pipeline>& found) {
  std::vector<Link> links;
  for (const Chain& chain : chains) links.insert(links.end(), chain.begin(), chain.end());
  RouteOptions counted = options;
  counted.resamples = 0;
  const std::vector<LinkTest> all = test_links(set, counted, units, half_of, Half::both, links);
  const std::vector<PartialLink> partial = partial_links(set, options, units, half_of, Half::confirm, links);
  size_t at = 0;
  for (size_t c = 0; c < chains.size(); ++c) {
    found[c].p_partial = 0;
    for (size_t step = 1; step <= chains[c].size(); ++step, ++at) {
      found[c].steps[step].phi = all[at].phi();
      found[c].steps[step].phi_partial = partial[at].phi;
      found[c].p_partial = std::max(found[c].p_partial, partial[at].p);
    }
  }
}

}  // namespace

Pipelines pipelines(const TraceSet& set, const RouteOptions& options) {
  Pipelines out;
  const Units units = units_of(set);
  if (units.size() < 2 || set.layers().size() < 2) return out;
  const std::vector<uint8_t> half_of = halves_of(units, options.seed);
  std::vector<Link> links = candidate_links(set, options, units, half_of);
  const std::vector<LinkTest> explored = test_links(set, options, units, half_of, Half::explore, links);
  size_t kept = 0;
  for (size_t k = 0; k < links.size(); ++k)
    if (explored[k].z >= pipeline_link_z) links[kept++] = links[k];
  links.resize(kept);
  out.links = static_cast<int64_t>(kept);
  std::vector<Chain> chains = chains_of(links, set.layers().size() == 2 ? 1 : 2);
  out.candidates = static_cast<int64_t>(chains.size());
  std::vector<Link> in_chains;
  for (const Chain& chain : chains) in_chains.insert(in_chains.end(), chain.begin(), chain.end());
  const std::vector<LinkTest> confirmed = test_links(set, options, units, half_of, Half::confirm, in_chains);
  std::vector<double> p;
  std::vector<Pipeline> made;
  size_t at = 0;
  for (const Chain& chain : chains) {
    Pipeline one;
    one.steps.push_back({set.layers()[static_cast<size_t>(chain[0].layer)], chain[0].from});
    one.p = 0;
    for (const Link& link : chain) {
      one.steps.push_back({set.layers()[static_cast<size_t>(link.layer) + 1], link.to});
      one.steps.back().p_link = confirmed[at].p;
      one.p = std::max(one.p, confirmed[at++].p);
    }
    p.push_back(one.p);
    made.push_back(std::move(one));
  }
  const std::vector<double> q = benjamini_hochberg(p);
  std::vector<Chain> held;
  for (size_t c = 0; c < chains.size(); ++c) {
    made[c].q = q[c];
    if (!(q[c] <= pipeline_q)) continue;
    held.push_back(chains[c]);
    out.found.push_back(std::move(made[c]));
  }
  if (held.empty()) return out;
  describe(set, options, units, half_of, held, out.found);
  name_domains(set, options, held, out.found);
  return out;
}

void write_pipelines_csv(const std::filesystem::path& file, const std::vector<Pipeline>& rows) {
  CsvWriter csv({"pipeline", "step", "layer", "expert", "domain", "phi", "p", "q", "phi_partial", "p_partial", "p_link",
                 "domain_ratio", "domain_p", "domain_q"});
  int64_t pipeline = 0;
  for (const Pipeline& row : rows) {
    ++pipeline;
    int64_t number = 0;
    for (const PipelineStep& step : row.steps) {
      csv.cell(pipeline).cell(++number).cell(int64_t{step.layer}).cell(int64_t{step.expert}).cell(row.domain);
      csv.cell(step.phi).cell(row.p).cell(row.q).cell(step.phi_partial).cell(row.p_partial).cell(step.p_link);
      csv.cell(row.domain_ratio).cell(row.domain_p).cell(row.domain_q).end_row();
    }
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
