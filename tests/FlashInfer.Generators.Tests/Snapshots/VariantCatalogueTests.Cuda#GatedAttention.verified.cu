namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<float> gates;
    flashinfer::Span<int> starts;
  };

  static constexpr bool kTransformsOutput = true;

  static __device__ __forceinline__ float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments& a) {
    return element * csharp::fast_sigmoid(a.gates[csharp::add(csharp::multiply(csharp::add(a.starts[at.sequence], at.qo_index), 32), at.head)]);
  }
};
