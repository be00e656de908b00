namespace FlashInfer.Tests;

/// <summary>Runs a case of either element type through decode and holds it against the project's tolerances.</summary>
internal static class DecodeScenario
{
    public static ScenarioErrors Check(Device device, DecodeCase decodeCase)
    {
        ScenarioErrors errors =
            decodeCase.Dtype == DType.Float16
                ? new PagedScenario<Half>(device, decodeCase, false, x => (Half)x, x => (float)x).Run()
                : new PagedScenario<BFloat16>(device, decodeCase, false, x => (BFloat16)x, x => x).Run();
        return errors.Check(decodeCase.Dtype, decodeCase.ToString(), decodeCase.RoundsTwice(device));
    }
}
