// What is asked of a model when circuits are looked for: the metric of each pair with some parts at work and the rest
// ablated. The search and its statistics know no more of a model than this.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/node.h"
#include "eval/circuit/run_log.h"

namespace signalbox::eval {

// [part] 1 = at work; in the order of the scorer's parts.
using NodeMask = std::vector<uint8_t>;

// What is asked of subsets of anything that can be at work or not.
class SubsetScorer {
 public:
  virtual ~SubsetScorer() = default;
  virtual size_t size() const = 0;  // parts
  virtual std::string part_name(size_t part) const = 0;
  virtual size_t n_pairs() const = 0;
  // [pair] the metric with these parts at work. Asked again, the answer comes from memory.
  const std::vector<double>& scores(const NodeMask& kept);
  // [pair] of the whole model and with everything ablated, the embedding where the ablation has one too.
  virtual const std::vector<double>& whole() const = 0;
  virtual const std::vector<double>& none() const = 0;
  // Where answers are kept, under this name; null: nowhere.
  void keep_in(std::shared_ptr<RunLog> log, std::string name);
  // What is kept under a name of this scorer's, or `make`s.
  std::vector<double> known_or(const std::string& name, const std::function<std::vector<double>()>& make) const;

  NodeMask all() const { return NodeMask(size(), 1); }
  NodeMask nothing() const { return NodeMask(size(), 0); }

 protected:
  virtual std::vector<double> run(const NodeMask& kept) = 0;

 private:
  std::map<NodeMask, std::vector<double>> known_;
  std::shared_ptr<RunLog> log_;
  std::string name_;
};

class CircuitScorer : public SubsetScorer {
 public:
  virtual const std::vector<NodeId>& nodes() const = 0;  // ascending
  size_t size() const override { return nodes().size(); }
  std::string part_name(size_t part) const override { return node_name(nodes()[part]); }
  // [part] the share of all tokens at which it runs: 1 for all that is not routed.
  virtual const std::vector<double>& usage() const = 0;
  // [part] 1 = it writes something in a run of either record.
  virtual const NodeMask& active() const = 0;
  // [part] 1 = it does, and what would stand in its place is something else, in some pair. Others do nothing when they
  // go out alone.
  virtual const NodeMask& differing() const { return active(); }
};

NodeMask complement_of(const NodeMask& kept);
int64_t count_of(const NodeMask& kept);

}  // namespace signalbox::eval
