// Reads structure back from the text: a small parser and interpreter, apart from the generator.
#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "eval/data/structural.h"

namespace signalbox::eval {

namespace {

std::vector<std::string> sentences_of(const std::string& text) {
  std::vector<std::string> sentences;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find(". ", at);
    end = end == std::string::npos ? text.size() : end + 1;
    sentences.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return sentences;
}

// A count and the length of the longest chain of statements that made it.
struct Held {
  int64_t count = 0, depth = 0;
};

class Reader {
 public:
  explicit Reader(std::string where) : where_(std::move(where)) {}

  void read(const std::string& sentence) {
    static const std::string name = "([A-Z][a-z]+)";
    static const std::regex holds(name + " holds (\\d+) [a-z]+\\."),
        gives(name + " gives (\\d+) of its [a-z]+ to " + name + "\\."),
        gives_all(name + " gives all its [a-z]+ to " + name + "\\."),
        swaps(name + " and " + name + " swap their [a-z]+\\."),
        adds(name + " adds as many [a-z]+ as " + name + " holds\\."),
        trades("Now " + name + " puts back all it has and takes (\\d+) [a-z]+ more than " + name + " holds\\."),
        lives(name + " lives in " + name + "\\."), born(name + " was born in " + name + "\\."),
        works(name + " works for " + name + "\\."), place("The ([a-z]+) of " + name + " is " + name + "\\.");
    std::smatch m;
    const auto is = [&](const std::regex& form) { return std::regex_match(sentence, m, form); };
    if (is(holds)) {
      see({m[1]});
      held_[m[1]] = {std::stoll(m[2]), 0};
    } else if (is(gives)) {
      see({m[1], m[3]});
      Held &from = at(m[1]), &to = at(m[3]);
      from = change(from.count - std::stoll(m[2]), from.depth);
      to = change(to.count + std::stoll(m[2]), to.depth);
    } else if (is(gives_all)) {
      see({m[1], m[2]});
      Held &from = at(m[1]), &to = at(m[2]);
      to = change(to.count + from.count, std::max(from.depth, to.depth));
      from = change(0, -1);
    } else if (is(swaps)) {
      see({m[1], m[2]});
      Held &first = at(m[1]), &second = at(m[2]);
      const Held old = first;
      first = change(second.count, second.depth);
      second = change(old.count, old.depth);
    } else if (is(adds)) {
      see({m[1], m[2]});
      Held &to = at(m[1]), &from = at(m[2]);
      to = change(to.count + from.count, std::max(from.depth, to.depth));
    } else if (is(trades)) {
      see({m[1], m[3]});
      at(m[1]) = change(at(m[3]).count + std::stoll(m[2]), at(m[3]).depth);
    } else if (is(lives) || is(born) || is(works)) {
      see({m[1], m[2]});
      const std::string relation = sentence.find(" lives in ") != std::string::npos   ? "lives"
                                   : sentence.find(" was born ") != std::string::npos ? "born"
                                                                                      : "works";
      facts_[{m[1], relation}] = m[2];
    } else if (is(place)) {
      see({m[2], m[3]});
      facts_[{m[2], m[1]}] = m[3];
    } else {
      throw Error(where_, "expected a sentence of a known form, found \"" + sentence + "\"");
    }
  }

  Structure ask(const std::string& question) {
    static const std::regex count("How many [a-z]+ does ([A-Z][a-z]+) hold at the end\\?"),
        hop("(?:What|Who) is the ([a-z]+) of the place where ([A-Z][a-z]+) (lives|was born)\\?"),
        sum("What is (\\d+) \\+ (\\d+) \\+ (\\d+)\\?");
    std::smatch m;
    Structure out;
    out.entities = static_cast<int64_t>(seen_.size());
    for (const auto& [name, times] : seen_) out.recurring += times > 1;
    out.state_changes = changes_;
    if (std::regex_match(question, m, count)) {
      out.steps = at(m[1]).depth;
      out.answer = std::to_string(at(m[1]).count);
    } else if (std::regex_match(question, m, hop)) {
      const std::string where = fact(m[2], m[3] == "lives" ? "lives" : "born");
      out.answer = fact(where, m[1]) + ".";
      out.steps = 2;
    } else if (std::regex_match(question, m, sum)) {
      out.answer = std::to_string(std::stoll(m[1]) + std::stoll(m[2]) + std::stoll(m[3])) + ".";
      out.steps = 2;
      out.state_changes = 2;  // of the running total
    } else {
      throw Error(where_, "expected a question of a known form, found \"" + question + "\"");
    }
    return out;
  }

 private:
  Held change(int64_t count, int64_t depth) {
    ++changes_;
    if (count < 0) throw Error(where_, "expected counts that do not fall below 0, found " + std::to_string(count));
    return {count, depth + 1};
  }
  Held& at(const std::string& name) {
    const auto found = held_.find(name);
    if (found == held_.end()) throw Error(where_, "expected " + name + " to hold something first");
    return found->second;
  }
  const std::string& fact(const std::string& entity, const std::string& relation) {
    const auto found = facts_.find({entity, relation});
    if (found == facts_.end()) throw Error(where_, "expected the document to say " + relation + " of " + entity);
    return found->second;
  }
  void see(const std::set<std::string>& names) {
    for (const std::string& name : names) ++seen_[name];
  }

  std::string where_;
  std::map<std::string, Held> held_;
  std::map<std::pair<std::string, std::string>, std::string> facts_;
  std::map<std::string, int64_t> seen_;  // sentences with the name
  int64_t changes_ = 0;
};

}  // namespace

Structure measure_structure(const std::string& document, const std::string& question, const std::string& where) {
  Reader reader(where);
  for (const std::string& sentence : sentences_of(document)) reader.read(sentence);
  return reader.ask(question);
}

}  // namespace signalbox::eval
