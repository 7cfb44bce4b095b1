// Filters on sequences.
#include <algorithm>
#include <unordered_map>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

// A getter for attribute="a.b.0": each part is looked up as an item.
class AttributeGetter {
 public:
  AttributeGetter(Runtime& rt, const Value* attribute, const Value* otherwise = nullptr, bool fold_case = false)
      : otherwise_(otherwise && !otherwise->is_none() ? *otherwise : Value()),
        has_otherwise_(otherwise && !otherwise->is_none()),
        fold_case_(fold_case) {
    if (!attribute || attribute->is_none()) return;
    if (!attribute->is_string()) {
      parts_.push_back(*attribute);
      return;
    }
    const Value dot = rt.string(".");
    for (const Value& part : split(rt, attribute->text(), &dot.text(), -1)) {
      const std::string& name = part.text().bytes;
      const bool index = !name.empty() && name.size() < 18 && name.find_first_not_of("0123456789") == std::string::npos;
      parts_.push_back(index ? Value::integer(std::stoll(name)) : part);
    }
  }

  Value operator()(Runtime& rt, Value item) const {
    for (const Value& part : parts_) {
      item = rt.item(item, part);
      if (has_otherwise_ && item.is_undefined()) item = otherwise_;
    }
    return fold_case_ && item.is_string() ? lower(rt, item.text()) : item;
  }

 private:
  std::vector<Value> parts_;
  Value otherwise_;
  bool has_otherwise_, fold_case_;
};

// Python's sorted(): stable, in both directions.
std::vector<Value> sorted(Runtime& rt, std::vector<Value> items, const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return compare(rt.budget, keys[reverse ? b : a], keys[reverse ? a : b], "<") == -1;
  });
  std::vector<Value> result;
  result.reserve(items.size());
  for (size_t i : order) result.push_back(std::move(items[i]));
  return result;
}

Value filter_length(Runtime& rt, const Value& value, Args& args) {
  Bound("length", args, {});
  if (const auto n = rt.length(value)) return Value::integer(*n);
  throw Failure{std::string("object of type '") + type_name(value) + "' has no len()"};
}

Value filter_list(Runtime& rt, const Value& value, Args& args) {
  Bound("list", args, {});
  return rt.list(rt.collect(value));
}

Value filter_first(Runtime& rt, const Value& value, Args& args) {
  Bound("first", args, {});
  Value item;
  if (rt.iterate(value)->next(item)) return item;
  return Value::undefined("No first item, sequence was empty.");
}

Value reversed(Runtime& rt, const Value& value) {
  std::vector<Value> items = rt.collect(value);
  std::reverse(items.begin(), items.end());
  return rt.list(std::move(items));
}

Value filter_last(Runtime& rt, const Value& value, Args& args) {
  Bound("last", args, {});
  if (value.is(Kind::generator)) throw Failure{"'generator' object is not reversible"};
  if (value.is_string() || value.is_sequence() || value.is(Kind::range)) {
    if (*rt.length(value)) return rt.item(value, Value::integer(-1));
  } else {
    const auto items = rt.collect(value);
    if (!items.empty()) return items.back();
  }
  return Value::undefined("No last item, sequence was empty.");
}

class WalkList : public Iterator {  // what Python returns as a list iterator
 public:
  explicit WalkList(Value list) : list_(std::move(list)) {}
  bool next(Value& out) override {
    if (at_ == list_.list().items.size()) return false;
    out = list_.list().items[at_++];
    return true;
  }

 private:
  Value list_;
  size_t at_ = 0;
};

Value filter_reverse(Runtime& rt, const Value& value, Args& args) {
  Bound("reverse", args, {});
  if (value.is_string()) return rt.slice(value, Value::none(), Value::none(), Value::integer(-1));
  if (value.is(Kind::generator)) return reversed(rt, value);
  const Value list = reversed(rt, value);
  return rt.generator(std::make_unique<WalkList>(list), list.depth());
}

Value filter_join(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("join", args, {"d", "attribute"});
  const AttributeGetter get(rt, bound[1]);
  const Value separator = bound.has(0) ? rt.plain_str(*bound[0]) : rt.string("");
  TextBuilder out(rt.budget);
  const auto items = rt.iterate(value);
  Value item;
  for (bool first = true; items->next(item); first = false) {
    rt.budget.step();
    if (!first) out.add(separator.text());
    rt.add_str(out, get(rt, item));
  }
  return out.finish();
}

Value filter_items(Runtime& rt, const Value& value, Args& args) {
  Bound("items", args, {});
  std::vector<Value> pairs;
  if (value.is(Kind::dict)) {
    for (const auto& [key, item] : value.dict().entries) pairs.push_back(rt.tuple({key, item}));
  } else if (!value.is_undefined()) {
    throw Failure{"items: can only get item pairs from a mapping"};
  }
  const Value list = rt.list(std::move(pairs));
  return rt.generator(std::make_unique<WalkList>(list), list.depth());
}

Value filter_dictsort(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.has(1) ? bound.text(1).bytes : "key";
  if (by != "key" && by != "value") throw Failure{"dictsort: by must be 'key' or 'value'"};
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (!value.is(Kind::dict)) throw Failure{std::string("dictsort: expected a dict, found ") + type_name(value)};
  std::vector<Value> items, keys;
  for (const auto& [key, item] : value.dict().entries) {
    items.push_back(rt.tuple({key, item}));
    const Value& k = by == "key" ? key : item;
    keys.push_back(k.is_string() && !bound.flag(0, false) ? lower(rt, k.text()) : k);
  }
  return rt.list(sorted(rt, std::move(items), keys, bound.integer(2, 0) != 0));
}

Value filter_sort(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  const bool fold = !bound.flag(1, false);
  std::vector<AttributeGetter> getters;
  if (bound.given(2) && bound[2]->is_string()) {
    const Value comma = rt.string(",");
    for (const Value& part : split(rt, bound[2]->text(), &comma.text(), -1))
      getters.emplace_back(rt, &part, nullptr, fold);
  } else {
    getters.emplace_back(rt, bound[2], nullptr, fold);
  }
  std::vector<Value> items = rt.collect(value), keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const auto& get : getters) key.push_back(get(rt, item));
    keys.push_back(rt.list(std::move(key)));
  }
  return rt.list(sorted(rt, std::move(items), keys, bound.integer(0, 0) != 0));
}

Value filter_groupby(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const bool fold = !bound.flag(2, false);
  const AttributeGetter get(rt, bound[0], bound[1], fold), get_plain(rt, bound[0], bound[1]);
  std::vector<Value> items = rt.collect(value), keys;
  for (const Value& item : items) keys.push_back(get(rt, item));
  items = sorted(rt, std::move(items), keys, false);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < items.size();) {
    const Value key = get(rt, items[begin]);
    size_t end = begin + 1;
    while (end < items.size() && rt.equal(get(rt, items[end]), key)) ++end;
    std::vector<Value> pair = {get_plain(rt, items[begin]), rt.list({items.begin() + static_cast<ptrdiff_t>(begin),
                                                                     items.begin() + static_cast<ptrdiff_t>(end)})};
    auto group = std::make_shared<List>(&rt.budget, std::move(pair));
    group->group = true;
    groups.push_back(Value::object(Kind::tuple, std::move(group)));
    begin = end;
  }
  return rt.list(std::move(groups));
}

Value extreme(Runtime& rt, const Value& value, const Args& args, const char* name, int wanted) {
  const Bound bound(name, args, {"case_sensitive", "attribute"});
  const AttributeGetter get(rt, bound[1], nullptr, !bound.flag(0, false));
  const auto items = rt.iterate(value);
  Value best, item;
  if (!items->next(best)) return Value::undefined("No aggregated item, sequence was empty.");
  Value best_key = get(rt, best);
  while (items->next(item)) {
    const Value key = get(rt, item);
    if (compare(rt.budget, key, best_key, wanted < 0 ? "<" : ">") == wanted) {
      best = item;
      best_key = key;
    }
  }
  return best;
}

Value filter_min(Runtime& rt, const Value& value, Args& args) { return extreme(rt, value, args, "min", -1); }
Value filter_max(Runtime& rt, const Value& value, Args& args) { return extreme(rt, value, args, "max", 1); }

Value filter_sum(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("sum", args, {"attribute", "start"});
  const AttributeGetter get(rt, bound[0]);
  Value total = bound.has(1) ? *bound[1] : Value::integer(0);
  if (total.is_string()) throw Failure{"sum() can't sum strings"};
  const auto items = rt.iterate(value);
  Value item;
  while (items->next(item)) total = add(rt, total, get(rt, item));
  return total;
}

class UniqueIterator : public Iterator {
 public:
  UniqueIterator(Runtime& rt, const Value& source, AttributeGetter get)
      : rt_(rt), source_(rt.iterate(source)), get_(std::move(get)) {}
  bool next(Value& out) override {
    while (source_->next(out)) {
      const Value key = get_(rt_, out);
      const size_t h = hash(rt_.budget, key);
      auto [at, end] = seen_.equal_range(h);
      bool known = false;
      for (; at != end && !known; ++at) known = rt_.equal(at->second, key);
      if (known) continue;
      seen_.emplace(h, key);
      return true;
    }
    return false;
  }

 private:
  Runtime& rt_;
  std::unique_ptr<Iterator> source_;
  AttributeGetter get_;
  std::unordered_multimap<size_t, Value> seen_;
};

Value filter_unique(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("unique", args, {"case_sensitive", "attribute"});
  return rt.generator(
      std::make_unique<UniqueIterator>(rt, value, AttributeGetter(rt, bound[1], nullptr, !bound.flag(0, false))),
      value.depth());
}

class BatchIterator : public Iterator {
 public:
  BatchIterator(Runtime& rt, const Value& source, int64_t size, Value fill)
      : rt_(rt), source_(rt.iterate(source)), size_(size), fill_(std::move(fill)) {}
  bool next(Value& out) override {
    std::vector<Value> batch;
    Value item;
    if (has_pending_) batch.push_back(std::move(pending_));
    has_pending_ = false;
    while (source_->next(item)) {
      if (static_cast<int64_t>(batch.size()) == size_ && (size_ > 0 || !started_)) {
        pending_ = std::move(item);
        has_pending_ = started_ = true;
        out = rt_.list(std::move(batch));
        return true;
      }
      started_ = true;
      batch.push_back(std::move(item));
    }
    if (batch.empty()) return false;
    const auto n = static_cast<int64_t>(batch.size());
    if (!fill_.is_none() && n < size_) {
      rt_.budget.need(static_cast<uint64_t>(size_ - n));
      rt_.budget.need(static_cast<uint64_t>(size_ - n) * sizeof(Value));
      rt_.budget.step(static_cast<uint64_t>(size_ - n) / 8);
      batch.resize(static_cast<size_t>(size_), fill_);
    }
    out = rt_.list(std::move(batch));
    return true;
  }

 private:
  Runtime& rt_;
  std::unique_ptr<Iterator> source_;
  int64_t size_;
  Value fill_, pending_;
  bool has_pending_ = false, started_ = false;
};

Value filter_batch(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("batch", args, {"linecount", "fill_with"}, 1);
  return rt.generator(
      std::make_unique<BatchIterator>(rt, value, bound.integer(0, 1), bound.has(1) ? *bound[1] : Value::none()),
      std::max(value.depth(), bound.has(1) ? bound[1]->depth() : 0) + 1);
}

Value filter_slice(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("slice", args, {"slices", "fill_with"}, 1);
  const int64_t slices = bound.integer(0, 1);
  if (slices == 0) throw Failure{"integer division or modulo by zero"};
  const auto items = rt.collect(value);
  const auto length = static_cast<int64_t>(items.size());
  std::vector<Value> result;
  if (slices > 0) rt.budget.need(static_cast<uint64_t>(slices) * 8);
  int64_t offset = 0;
  for (int64_t i = 0; i < slices; ++i) {
    rt.budget.step();
    const int64_t per_slice = length / slices, extra = length % slices;
    const int64_t start = offset + i * per_slice;
    if (i < extra) ++offset;
    const int64_t end = offset + (i + 1) * per_slice;
    std::vector<Value> part(items.begin() + start, items.begin() + end);
    if (bound.given(1) && i >= extra) part.push_back(*bound[1]);
    result.push_back(rt.list(std::move(part)));
  }
  const Value list = rt.list(std::move(result));
  return rt.generator(std::make_unique<WalkList>(list), list.depth());
}

// |map, |select and friends: lazy, and they bind their arguments only when the first item is asked for.
class ApplyIterator : public Iterator {
 public:
  enum class Mode { map, select, reject };
  ApplyIterator(Runtime& rt, const Value& value, Args args, Mode mode, bool by_attribute)
      : rt_(rt), value_(value), args_(std::move(args)), mode_(mode), by_attribute_(by_attribute) {}

  bool next(Value& out) override {
    if (!prepared_) {
      prepared_ = true;
      if (truth(value_)) {
        mode_ == Mode::map ? prepare_map() : prepare_select();
        source_ = rt_.iterate(value_);
      }
    }
    if (!source_) return false;
    Value item;
    while (source_->next(item)) {
      rt_.budget.step();
      if (mode_ == Mode::map) {
        if (getter_) {
          out = (*getter_)(rt_, item);
        } else {
          Args args = args_;
          out = rt_.call_filter(name_, item, args);
        }
        return true;
      }
      const Value tested = getter_ ? (*getter_)(rt_, item) : item;
      Args args = args_;
      const bool passes = has_name_ ? rt_.call_test(name_, tested, args) : truth(tested);
      if (passes == (mode_ == Mode::select)) {
        out = std::move(item);
        return true;
      }
    }
    return false;
  }

 private:
  void take_name() {
    if (args_.positional.empty()) return;
    const Value name = args_.positional.front();
    if (!name.is_string()) throw Failure{"expected the name of a filter or test"};
    name_ = name.text().bytes;
    has_name_ = true;
    args_.positional.erase(args_.positional.begin());
  }

  void prepare_map() {
    const bool attribute = std::any_of(args_.named.begin(), args_.named.end(),
                                       [](const auto& named) { return named.first == "attribute"; });
    if (args_.positional.empty() && attribute) {
      const Bound bound("map", args_, {"attribute", "default"});
      getter_.emplace(rt_, bound[0], bound[1]);
      return;
    }
    take_name();
    if (!has_name_) throw Failure{"map requires a filter argument"};
  }

  void prepare_select() {
    if (by_attribute_) {
      if (args_.positional.empty()) throw Failure{"missing parameter for attribute name"};
      getter_.emplace(rt_, &args_.positional.front());
      args_.positional.erase(args_.positional.begin());
    }
    take_name();
  }

  Runtime& rt_;
  Value value_;
  Args args_;
  Mode mode_;
  bool by_attribute_, prepared_ = false, has_name_ = false;
  std::string name_;
  std::optional<AttributeGetter> getter_;
  std::unique_ptr<Iterator> source_;
};

template <ApplyIterator::Mode mode, bool by_attribute>
Value apply(Runtime& rt, const Value& value, Args& args) {
  int depth = value.depth();
  for (const Value& arg : args.positional) depth = std::max(depth, arg.depth());
  for (const auto& named : args.named) depth = std::max(depth, named.second.depth());
  return rt.generator(std::make_unique<ApplyIterator>(rt, value, args, mode, by_attribute), depth);
}

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  using Mode = ApplyIterator::Mode;
  static const std::unordered_map<std::string_view, Filter> table = {
      {"batch", filter_batch},
      {"count", filter_length},
      {"dictsort", filter_dictsort},
      {"first", filter_first},
      {"groupby", filter_groupby},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"length", filter_length},
      {"list", filter_list},
      {"map", apply<Mode::map, false>},
      {"max", filter_max},
      {"min", filter_min},
      {"reject", apply<Mode::reject, false>},
      {"rejectattr", apply<Mode::reject, true>},
      {"reverse", filter_reverse},
      {"select", apply<Mode::select, false>},
      {"selectattr", apply<Mode::select, true>},
      {"slice", filter_slice},
      {"sort", filter_sort},
      {"sum", filter_sum},
      {"unique", filter_unique},
  };
  const auto at = table.find(name);
  return at == table.end() ? nullptr : at->second;
}

}  // namespace signalbox::loaders::jinja
