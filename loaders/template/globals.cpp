// The functions that every template finds: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#include <algorithm>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

constexpr int64_t max_range = 100000;

Value make_range(Runtime&, Args& args) {
  const Bound bound("range", args, {"start", "stop", "step"}, 1, false);
  auto range = std::make_shared<Range>();
  if (bound.has(1)) {
    range->start = bound.integer(0, 0);
    range->stop = bound.integer(1, 0);
  } else {
    range->stop = bound.integer(0, 0);
  }
  range->step = bound.integer(2, 1);
  if (range->step == 0) throw Failure{"range() arg 3 must not be zero"};
  if (static_cast<uint64_t>(range->length()) > static_cast<uint64_t>(max_range))
    throw Failure{"range too big: the limit is " + std::to_string(max_range) + " items"};
  return Value::object(Kind::range, std::move(range));
}

// dict(mapping or pairs, **more)
std::vector<Dict::Entry> dict_entries(Runtime& rt, const Args& args, const char* name) {
  if (args.positional.size() > 1) throw Failure{std::string(name) + "() takes at most one positional argument"};
  std::vector<Dict::Entry> entries;
  for (const Value& source : args.positional) {
    if (source.is(Kind::dict)) {
      entries = source.dict().entries;
      continue;
    }
    if (source.is_undefined()) throw Failure{source.undefined_message()};
    for (const Value& pair : rt.collect(source)) {
      const auto items = rt.collect(pair);
      if (items.size() != 2)
        throw Failure{std::string(name) + "(): expected pairs, found " + std::to_string(items.size()) + " items"};
      entries.emplace_back(items[0], items[1]);
    }
  }
  for (const auto& [key, value] : args.named) entries.emplace_back(rt.string(key), value);
  return entries;
}

struct DictType : HostObject {
  const char* type_name() const override { return "dict type"; }
  bool callable() const override { return true; }
  Value call(Runtime& rt, Args& args) const override { return rt.dict(dict_entries(rt, args, "dict")); }
  std::optional<Value> attribute(Runtime& rt, std::string_view name) const override {
    if (name == "fromkeys") return builtin_attribute(rt, rt.dict({}), "fromkeys");
    return std::nullopt;
  }
};

Value make_namespace(Runtime& rt, Args& args) {
  const Value entries = rt.dict(dict_entries(rt, args, "namespace"));
  auto ns = rt.make_namespace();
  for (const auto& [key, value] : entries.dict().entries) {
    if (!key.is_string()) throw Failure{"namespace(): the names of attributes must be strings"};
    ns->set(rt, key.text().bytes, value);
  }
  return Value::object(Kind::object, std::move(ns));
}

struct Cycler : HostObject {
  explicit Cycler(std::vector<Value> items_in) : items(std::move(items_in)) {
    for (const Value& item : items) depth = std::max(depth, item.depth());
    depth = nested(depth + 1);
  }
  const char* type_name() const override { return "Cycler"; }
  std::optional<Value> attribute(Runtime& rt, std::string_view name) const override {
    if (name == "current") return items[position];
    if (name == "pos") return Value::integer(static_cast<int64_t>(position));
    if (name == "items") return rt.tuple(items);
    if (name != "next" && name != "reset") return std::nullopt;
    const bool advance = name == "next";
    auto self = std::static_pointer_cast<const Cycler>(shared_this.lock());
    return rt.function(
        std::string(name),
        [self, advance](Runtime&, Args& args) {
          Bound("cycler", args, {});
          if (!advance) {
            self->position = 0;
            return Value::none();
          }
          const Value item = self->items[self->position];
          self->position = (self->position + 1) % self->items.size();
          return item;
        },
        depth);
  }
  std::vector<Value> items;
  mutable size_t position = 0;
  std::weak_ptr<const Object> shared_this;
};

Value make_cycler(Runtime& rt, Args& args) {
  if (!args.named.empty()) throw Failure{"cycler() takes no keyword arguments"};
  if (args.positional.empty()) throw Failure{"cycler(): at least one item has to be provided"};
  rt.budget.step(args.positional.size());
  auto cycler = std::make_shared<Cycler>(args.positional);
  cycler->shared_this = cycler;
  return Value::object(Kind::object, std::move(cycler));
}

struct Joiner : HostObject {
  explicit Joiner(Value sep) : separator(std::move(sep)) { depth = nested(separator.depth() + 1); }
  const char* type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value call(Runtime& rt, Args& args) const override {
    Bound("joiner", args, {});
    if (used) return separator;
    used = true;
    return rt.string("");
  }
  std::optional<Value> attribute(Runtime&, std::string_view name) const override {
    if (name == "sep") return separator;
    if (name == "used") return Value::boolean(used);
    return std::nullopt;
  }
  Value separator;
  mutable bool used = false;
};

Value make_joiner(Runtime& rt, Args& args) {
  const Bound bound("joiner", args, {"sep"});
  return Value::object(Kind::object, std::make_shared<Joiner>(bound.has(0) ? *bound[0] : rt.string(", ")));
}

Value raise_exception(Runtime& rt, Args& args) {
  const Bound bound("raise_exception", args, {"message"}, 1);
  throw Failure{rt.str(*bound[0]).text().bytes};
}

Value strftime_now(Runtime& rt, Args& args) {
  const Bound bound("strftime_now", args, {"format"}, 1);
  return rt.string(rt.now(bound.text(0).bytes));
}

Value refuse_lipsum(Runtime&, Args&) { throw Failure{"lipsum() is not supported"}; }

}  // namespace

std::vector<std::pair<std::string, Value>> make_globals(Runtime& rt) {
  std::vector<std::pair<std::string, Value>> globals;
  const auto add = [&](const char* name, Value (*body)(Runtime&, Args&)) {
    globals.emplace_back(name, rt.function(name, body));
  };
  add("range", make_range);
  add("namespace", make_namespace);
  add("cycler", make_cycler);
  add("joiner", make_joiner);
  add("lipsum", refuse_lipsum);
  add("raise_exception", raise_exception);
  add("strftime_now", strftime_now);
  globals.emplace_back("dict", Value::object(Kind::object, std::make_shared<DictType>()));
  return globals;
}

}  // namespace signalbox::loaders::jinja
