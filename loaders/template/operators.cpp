// Python's arithmetic. Integers have 64 bits: what does not fit is an error, never another number.
#include <cmath>
#include <limits>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

[[noreturn]] void fail_overflow(const char* op) {
  throw Failure{std::string("the result of '") + op + "' does not fit a 64-bit integer"};
}

void refuse_undefined(const Value& a, const Value& b) {
  if (a.is_undefined()) throw Failure{a.undefined_message()};
  if (b.is_undefined()) throw Failure{b.undefined_message()};
}

[[noreturn]] void fail_types(const char* op, const Value& a, const Value& b) {
  refuse_undefined(a, b);
  throw Failure{std::string("unsupported operand types for ") + op + ": '" + type_name(a) + "' and '" + type_name(b) +
                "'"};
}

Value repeat_items(Runtime& rt, const Value& value, int64_t times) {
  const auto& items = value.list().items;
  std::vector<Value> result;
  if (times > 0 && !items.empty()) {
    const auto n = static_cast<uint64_t>(times);
    rt.budget.need(n);  // keeps the product below from wrapping
    rt.budget.need(n * items.size() * sizeof(Value));
    rt.budget.step(n * items.size() / 8);
    result.reserve(n * items.size());
    for (uint64_t i = 0; i < n; ++i) result.insert(result.end(), items.begin(), items.end());
  }
  return value.is(Kind::list) ? rt.list(std::move(result)) : rt.tuple(std::move(result));
}

// Python's float % and //: the remainder has the sign of the divisor.
double real_modulo(double a, double b) {
  double r = std::fmod(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  if (r == 0) r = std::copysign(0.0, b);
  return r;
}

double real_floor_divide(double a, double b) {
  double r = std::fmod(a, b);
  double q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(q);
  return q - floor > 0.5 ? floor + 1 : floor;
}

}  // namespace

Value add(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    int64_t sum;
    if (__builtin_add_overflow(a.integer(), b.integer(), &sum)) fail_overflow("+");
    return Value::integer(sum);
  }
  if (a.is_number() && b.is_number()) return Value::real(a.number() + b.number());
  if (a.is_string() && b.is_string()) {
    const bool markup = a.text().markup || b.text().markup;  // markup escapes what is not
    TextBuilder out(rt.budget);
    if (markup) {
      const Value left = escape(rt, a), right = escape(rt, b);
      out.add(left.text());
      out.add(right.text());
    } else {
      out.add(a.text());
      out.add(b.text());
    }
    return out.finish(markup);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto &x = a.list().items, &y = b.list().items;
    rt.budget.need((x.size() + y.size()) * sizeof(Value));
    rt.budget.step((x.size() + y.size()) / 8);
    std::vector<Value> items;
    items.reserve(x.size() + y.size());
    items.insert(items.end(), x.begin(), x.end());
    items.insert(items.end(), y.begin(), y.end());
    return a.is(Kind::list) ? rt.list(std::move(items)) : rt.tuple(std::move(items));
  }
  refuse_undefined(a, b);
  if (a.is_string())
    throw Failure{std::string("can only concatenate str (not \"") + (b.is_none() ? "NoneType" : type_name(b)) +
                  "\") to str"};
  fail_types("+", a, b);
}

Value subtract(Runtime&, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    int64_t difference;
    if (__builtin_sub_overflow(a.integer(), b.integer(), &difference)) fail_overflow("-");
    return Value::integer(difference);
  }
  if (a.is_number() && b.is_number()) return Value::real(a.number() - b.number());
  if (a.is(Kind::view) && b.is(Kind::view)) throw Failure{"set operations on dict views are not supported"};
  fail_types("-", a, b);
}

Value multiply(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    int64_t product;
    if (__builtin_mul_overflow(a.integer(), b.integer(), &product)) fail_overflow("*");
    return Value::integer(product);
  }
  if (a.is_number() && b.is_number()) return Value::real(a.number() * b.number());
  if (a.is_string() && b.is_integral()) return repeat(rt, a.text(), b.integer());
  if (b.is_string() && a.is_integral()) return repeat(rt, b.text(), a.integer());
  if (a.is_sequence() && b.is_integral()) return repeat_items(rt, a, b.integer());
  if (b.is_sequence() && a.is_integral()) return repeat_items(rt, b, a.integer());
  fail_types("*", a, b);
}

Value divide(Runtime&, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("/", a, b);
  if (b.number() == 0) throw Failure{"division by zero"};
  if (a.is_integral() && b.is_integral())  // long double holds an int64 exactly, so that the quotient rounds once
    return Value::real(static_cast<double>(static_cast<long double>(a.integer()) / b.integer()));
  return Value::real(a.number() / b.number());
}

Value floor_divide(Runtime&, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("//", a, b);
  if (b.number() == 0) throw Failure{"integer division or modulo by zero"};
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.integer(), y = b.integer();
    if (y == -1) {
      if (x == std::numeric_limits<int64_t>::min()) fail_overflow("//");
      return Value::integer(-x);
    }
    const int64_t q = x / y;
    return Value::integer(x % y != 0 && (x < 0) != (y < 0) ? q - 1 : q);
  }
  return Value::real(real_floor_divide(a.number(), b.number()));
}

Value modulo(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_string()) {
    return format_percent(rt, a.text(), b);
  }
  if (!a.is_number() || !b.is_number()) fail_types("%", a, b);
  if (b.number() == 0) throw Failure{"integer division or modulo by zero"};
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.integer(), y = b.integer();
    if (y == -1) return Value::integer(0);
    const int64_t r = x % y;
    return Value::integer(r != 0 && (r < 0) != (y < 0) ? r + y : r);
  }
  return Value::real(real_modulo(a.number(), b.number()));
}

Value power(Runtime&, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) fail_types("**", a, b);
  if (a.is_integral() && b.is_integral() && b.integer() >= 0) {
    int64_t result = 1, base = a.integer(), exponent = b.integer();
    while (exponent > 0) {
      if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) fail_overflow("**");
      exponent >>= 1;
      if (exponent && __builtin_mul_overflow(base, base, &base)) fail_overflow("**");
    }
    return Value::integer(result);
  }
  const double x = a.number(), y = b.number();
  if (x == 0 && y < 0) throw Failure{"0.0 cannot be raised to a negative power"};
  if (x < 0 && std::isfinite(x) && std::isfinite(y) && y != std::floor(y))
    throw Failure{"complex numbers are not supported"};
  const double result = std::pow(x, y);
  if (std::isinf(result) && std::isfinite(x) && std::isfinite(y)) throw Failure{"the result of '**' is too large"};
  return Value::real(result);
}

Value negate(Runtime&, const Value& a) {
  if (a.is(Kind::real)) return Value::real(-a.real());
  if (a.is_undefined()) throw Failure{a.undefined_message()};
  if (!a.is_integral()) throw Failure{std::string("bad operand type for unary -: '") + type_name(a) + "'"};
  if (a.integer() == std::numeric_limits<int64_t>::min()) fail_overflow("-");
  return Value::integer(-a.integer());
}

Value plus(Runtime&, const Value& a) {
  if (a.is(Kind::real)) return a;
  if (a.is_undefined()) throw Failure{a.undefined_message()};
  if (!a.is_integral()) throw Failure{std::string("bad operand type for unary +: '") + type_name(a) + "'"};
  return Value::integer(a.integer());
}

}  // namespace signalbox::loaders::jinja
