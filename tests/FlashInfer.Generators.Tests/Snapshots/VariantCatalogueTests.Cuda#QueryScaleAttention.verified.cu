namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<float> scales;
    int trained_length;
    float inverse_logarithm;
  };

  static constexpr bool kTransformsQuery = true;

  static __device__ __forceinline__ float transform_query(float element, const flashinfer::ElementContext& at, const Arguments& a) {
    const float growth = csharp::max(1.f, csharp::log(float(csharp::max(at.qo_position, 0) + 1)) * a.inverse_logarithm);
    return element * growth * a.scales[at.head * 128 + at.element];
  }
};
