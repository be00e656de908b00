namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<int> items;
    flashinfer::Span<unsigned char> states;
    int prompt_len;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
    if (at.kv_position < a.prompt_len) {
      return true;
    }
    const int query = csharp::subtract(at.qo_position, a.prompt_len);
    const int key = csharp::subtract(at.kv_position, a.prompt_len);
    bool keeps = false;
    for (int item = 0; item < a.states.length; ++item) {
      const int first = a.items[csharp::multiply(2, item)];
      const int end = a.items[csharp::add(csharp::multiply(2, item), 1)];
      if (query < first || query >= end) {
        continue;
      }
      switch (a.states[item]) {
        case 0: {
          break;
        }
        case 1: {
          keeps |= key >= first && key < end;
          break;
        }
        default: {
          keeps = true;
          break;
        }
      }
    }
    return keeps;
  }

  static constexpr bool kHasLoops = true;
};
